"""What `pyinfra INVENTORY deploy/site.py` does with one host; the same path as `gpufleet apply`.

pyinfra runs a deploy file once per host, all at once, before it changes anything. There every host
is probed and planned; only a host that is not as wanted gets the one operation, which converges it
at its own pace when pyinfra comes to run operations.
"""

import atexit
import os
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from pyinfra import context, logger
from pyinfra.api.command import FunctionCommand
from pyinfra.api.exceptions import PyinfraError
from pyinfra.api.operation import operation

from deploy.commands.apply import make_wanted
from deploy.commands.plan import make_plans
from deploy.engine.converge import Consent, converge
from deploy.engine.outcome import Outcome
from deploy.engine.wave import settle
from deploy.facts import NodeFacts
from deploy.fleet.errors import Fault, WrongInput
from deploy.fleet.inventory import Fleet, read_inventory
from deploy.fleet.redact import Redactor, secrets_of
from deploy.fleet.runs import RUNS, Run, printable
from deploy.fleet.transport import Connection, adopt_pyinfra
from deploy.lock import Lock, lock_path, read_lock
from deploy.locking import answers
from deploy.steps import Step, Wanted
from deploy.survey import BadProbe, Survey, probe

REBOOT_KEY = "gpufleet_reboot"
"""`pyinfra --data gpufleet_reboot=yes`: consent to reboot idle hosts that need it."""


_state: Any = context.ctx_state


@dataclass(frozen=True)
class Decided:
    """What is to be done with one host: converge it, or say why not, or nothing."""

    work: tuple[Wanted, NodeFacts] | None = None
    refused: str = ""
    steps: tuple[str, ...] = ()


def decide(host: Any) -> Decided:
    """Probe and plan one connected pyinfra host; never raises for what the host does.

    Raises PyinfraError, which ends the whole run, when inventory or lock are wrong.
    """
    fleet, lock = _inputs()
    name = str(host.name)
    ours = fleet.hosts[name]
    try:
        facts = probe(adopt_pyinfra(host), ours.spec)
    except BadProbe as error:
        return Decided(refused=str(error))
    alone = Fleet(fleet.name, fleet.path, {name: ours})
    found = Survey(facts={name: facts}, failed={}, connections={})
    solutions = answers(alone, found, lock)
    plans = make_plans(alone, found, solutions)
    outcomes = settle(alone, found, plans)
    if name in outcomes:
        return Decided(refused=printable(outcomes[name].message))
    plan = plans[name]
    steps = [f"{step.layer}: {step.title} ({step.why})" for step in plan.steps]
    steps += [f"reboot: {plan.reboot.why}"] if plan.reboot else []
    work = (make_wanted(alone, solutions, name), facts)
    return Decided(work=work, steps=tuple(map(printable, steps)))


@operation()
def converge_to_lock(wanted: Wanted, facts: NodeFacts):  # type: ignore[no-untyped-def]
    """Bring this host to its locked stack and prove it."""
    yield FunctionCommand(_converge, (wanted, facts), {})


@operation()
def refuse(message: str):  # type: ignore[no-untyped-def]
    """Fail this host with a reason; changes nothing, and `--dry` shows no change."""
    if _state.get().is_executing:
        yield FunctionCommand(_refuse, (message,), {})


def _converge(state: Any, host: Any, wanted: Wanted, facts: NodeFacts) -> bool:
    # pyinfra calls a function that takes (state, host) directly, and False fails this host only;
    # an exception would be printed with a traceback.
    outcome = converge(
        adopt_pyinfra(host),
        wanted,
        facts,
        consent=Consent(reboot=_agreed(host)),
        report=_Log(state, host),
        run=_run(),
        again=lambda: _again(host),
    )
    document = outcome.model_dump(mode="json", exclude={"host", "status"})
    _run().result(outcome.host, outcome.status, **document)
    _tell(host, outcome)
    return outcome.status in {"converged", "unchanged"}


def _refuse(state: Any, host: Any, message: str) -> bool:
    host.log_styled(message, log_func=logger.error, fg="red")
    return False


def _agreed(host: Any) -> bool:
    return str(host.data.get(REBOOT_KEY, "")).lower() in {"yes", "true", "1"}


def _again(host: Any) -> Connection:
    host.connected = False
    host.connect(reason="after its reboot", show_errors=False, raise_exceptions=True)
    return adopt_pyinfra(host)


def _tell(host: Any, outcome: Outcome) -> None:
    if outcome.status in {"converged", "unchanged"}:
        return
    lines = [f"{outcome.status}: {outcome.message}", *(f"    {line}" for line in outcome.tail)]
    lines += [f"raw log: {outcome.log}"] if outcome.log else []
    if outcome.status == "reboot-pending":
        lines.append(f"consent with: pyinfra --data {REBOOT_KEY}=yes ...")
    for line in lines:
        host.log(line, log_func=logger.error)


class _Log:
    """Progress through pyinfra's own log."""

    def __init__(self, state: Any, host: Any) -> None:
        self._state, self._host = state, host

    def note(self, host: str, text: str) -> None:
        self._host.log(text)

    def step(self, host: str, step: Step, number: int, count: int) -> None:
        self._host.log(f"{number}/{count} {step.layer}: {step.title}")

    def line(self, host: str, text: str) -> None:
        if self._state.print_output:
            self._host.log(text)


@cache
def _inputs() -> tuple[Fleet, Lock]:
    """Inventory and lock of this pyinfra run, read once. Raises PyinfraError."""
    state = _state.get()
    try:
        path = _inventory_path()
        try:
            fleet = read_inventory(path)
        finally:
            _state.set(state)  # reading runs pyinfra's loader, which sets a state of its own
        beside = lock_path(Path(path))
        lock = read_lock(beside)
        if lock is None:
            fault = f"does not exist; make it with: gpufleet lock {path}"
            raise WrongInput([Fault(str(beside), "", fault)])
        active = {str(host.name) for host in state.inventory.get_active_hosts()}
        hosts = {name: host for name, host in fleet.hosts.items() if name in active}
        answers(Fleet(fleet.name, fleet.path, hosts), Survey(), lock)  # is the lock up to date?
    except WrongInput as error:
        lines = "\n    ".join(map(str, error.faults))
        count = len(error.faults)
        plural = "s" * (count != 1)
        raise PyinfraError(f"{count} fault{plural}, nothing was run\n    {lines}") from None
    return fleet, lock


def _inventory_path() -> str:
    """The inventory argument of the pyinfra command line that runs us, by pyinfra's own parser."""
    from pyinfra_cli.cli import cli  # type: ignore[import-untyped]

    parsed = cli.make_context("pyinfra", sys.argv[1:], resilient_parsing=True)
    folder = parsed.params.get("chdir")  # pyinfra has gone there before it reads the inventory
    path = Path(str(parsed.params.get("inventory")))
    if not path.is_file():
        place = f" (from {os.getcwd()})" if folder else ""
        raise WrongInput(
            [
                Fault(
                    str(path),
                    "",
                    f"is no inventory file{place}: wanted one, because the lock lies beside it",
                )
            ]
        )
    return str(path)


@cache
def _run() -> Run:
    """The run directory of this pyinfra run, made when the first host changes."""
    fleet, lock = _inputs()
    redact = Redactor(secret for host in fleet.hosts.values() for secret in secrets_of(host.data))
    hosts = [host.name for host in _state.get().inventory.get_active_hosts()]
    run = Run(
        RUNS,
        ["pyinfra", str(fleet.path), "deploy/site.py"],
        inventory=str(fleet.path),
        hosts=hosts,
        redact=redact,
    )
    run.locked_to(lock.digest)
    atexit.register(run.end, None, "finished")
    return run
