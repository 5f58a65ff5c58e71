"""Hosts that change together: every one in a greenlet of its own, at its own pace.

Not through pyinfra's `run_ops`, on evidence (docs/decisions.md): its pool is 20 hosts per CPU, so
that the 41st host would wait for 40 kernel-module builds, it prints a raw traceback for every
host that fails, and without a barrier it does not even record which ones failed.
"""

import traceback
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass

from deploy.engine.converge import Consent, conforms, converge
from deploy.engine.outcome import Outcome, why_blocked
from deploy.engine.progress import Progress
from deploy.facts import NodeFacts
from deploy.fleet.inventory import Fleet, Host
from deploy.fleet.runs import Run, printable
from deploy.fleet.transport import Connection, Unreachable, connect, on_each
from deploy.plan import HostPlan
from deploy.steps import Wanted
from deploy.survey import Survey

HOST_DEADLINE_S = 12 * 3600
"""Backstop for one host; every step, lock and reboot has a far shorter limit of its own."""


@dataclass(frozen=True)
class Work:
    """One host that is to change."""

    host: Host
    wanted: Wanted
    facts: NodeFacts
    consent: Consent


def settle(fleet: Fleet, found: Survey, plans: Mapping[str, HostPlan]) -> dict[str, Outcome]:
    """Outcomes of the hosts that are not visited; hosts with something to do are left out."""
    outcomes: dict[str, Outcome] = {}
    for name in fleet.hosts:
        if name in found.unreachable:
            message = printable(found.failed[name])
            outcomes[name] = Outcome(host=name, status="unreachable", message=message)
        elif (outcome := _settled(plans[name])) is not None:
            outcomes[name] = outcome
    return outcomes


def _settled(plan: HostPlan) -> Outcome | None:
    """The outcome of a host with nothing to do now, None for one that is to change."""
    if plan.blocked is not None:
        return Outcome(host=plan.host, status="blocked", message=why_blocked(plan.blocked))
    if conforms(plan):
        return Outcome(host=plan.host, status="unchanged", message="")
    if plan.busy and all(step.disruptive for step in plan.steps):
        return Outcome(
            host=plan.host,
            status="busy",
            message=f"in use by {', '.join(plan.busy)}: left alone; apply again when it is free",
            busy=plan.busy,
            remaining=tuple(step.title for step in plan.steps),
        )
    return None


def run_wave(work: Iterable[Work], *, run: Run, progress: Progress) -> dict[str, Outcome]:
    """Converge hosts at once; every one has an outcome, in run directory and progress as well.

    On KeyboardInterrupt hosts without an
    outcome are recorded as interrupted, nothing is waited for, and the exception goes on: their
    locks end with our connections, and a command that was running ends by itself.
    """
    tasks = {task.host.name: task for task in work}
    outcomes: dict[str, Outcome] = {}

    def one(host: Host) -> Outcome:
        task = tasks[host.name]
        with ExitStack() as connections:

            def again() -> Connection:
                fresh = connect(host)
                connections.callback(fresh.close)
                return fresh

            return converge(
                again(),
                task.wanted,
                task.facts,
                consent=task.consent,
                report=progress,
                run=run,
                again=again,
            )

    def record(outcome: Outcome) -> None:
        outcomes[outcome.host] = outcome
        document = outcome.model_dump(mode="json", exclude={"host", "status"})
        run.result(outcome.host, outcome.status, **document)

    results = on_each(
        [task.host for task in tasks.values()], one, deadline_s=HOST_DEADLINE_S, at_once=len(tasks)
    )
    try:
        for name, result in results:
            outcome = result if isinstance(result, Outcome) else _broken(name, result, run)
            record(outcome)
            progress.finished(outcome)
    except KeyboardInterrupt:
        for name in tasks.keys() - outcomes.keys():
            doing = progress.working.get(name)
            what = f"while: {doing.doing}; the host ends that step by itself" if doing else "before"
            record(Outcome(host=name, status="interrupted", message=f"interrupted {what}"))
        raise
    return outcomes


def _broken(name: str, error: Exception, run: Run) -> Outcome:
    """What a host's greenlet raised, as that host's outcome."""
    message = printable(run.redact(str(error) or type(error).__name__))
    if isinstance(error, Unreachable):
        return Outcome(host=name, status="unreachable", message=message)
    log = run.log(name)
    for text in traceback.format_exception(error):
        for line in text.splitlines():
            log.line(line)
    return Outcome(
        host=name,
        status="failed",
        message=f"{type(error).__name__}: {message}; this is a fault of gpufleet: please report it",
        log=str(log.path),
    )
