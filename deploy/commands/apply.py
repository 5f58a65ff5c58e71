"""Bring hosts to their locked stacks; a second run changes nothing."""

import argparse
import json
import sys
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TextIO

from deploy.converge import Consent, Outcome
from deploy.fleet import exits
from deploy.fleet.errors import Fault, WrongInput
from deploy.fleet.inventory import Fleet, read_inventory
from deploy.fleet.names import fold
from deploy.fleet.redact import Redactor, secrets_of
from deploy.fleet.runs import Run, printable
from deploy.lock import Lock, lock_path, read_lock, write_lock
from deploy.locking import answers, new_lock
from deploy.plan import HostPlan
from deploy.progress import Progress, looking
from deploy.reboot import DEADLINE_S
from deploy.stack import Solution
from deploy.survey import Survey, survey
from deploy.wave import Work, judge, make_wanted, run_wave

RUNS = Path("runs")
NO_GATE = "one wave; no verification gate ran"

FAILED = {"failed", "blocked", "locked"}
NOT_DONE = {"busy", "reboot-pending", "unreachable", "interrupted"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("inventory", help="pyinfra inventory file")
    parser.add_argument("--limit", help="hosts, node sets, groups or globs, comma-separated")
    parser.add_argument("--yes", action="store_true", help="change hosts without asking")
    reboot = parser.add_mutually_exclusive_group()
    reboot.add_argument(
        "--reboot", action="store_true", default=None, help="reboot idle hosts that need it"
    )
    reboot.add_argument(
        "--no-reboot", dest="reboot", action="store_false", help="reboot nothing, and do not ask"
    )
    parser.add_argument(
        "--reboot-timeout",
        type=int,
        default=DEADLINE_S,
        metavar="SECONDS",
        help="how long a host may take to come back (default: %(default)s)",
    )
    parser.add_argument(
        "--json", nargs="?", const="-", metavar="FILE", help="write the result as JSON (- = stdout)"
    )


def run(arguments: argparse.Namespace) -> int:
    terminal = sys.stdin.isatty() and sys.stderr.isatty()
    check(arguments, terminal)
    fleet = read_inventory(arguments.inventory)
    wave = fleet.limit(arguments.limit) if arguments.limit else fleet
    path = lock_path(Path(arguments.inventory))
    lock = read_lock(path)
    say = sys.stderr if arguments.json == "-" else sys.stdout

    redact = Redactor(secret for host in fleet.hosts.values() for secret in secrets_of(host.data))
    record = Run(
        RUNS,
        ["gpufleet", "apply", *command_line(arguments)],
        inventory=arguments.inventory,
        hosts=wave.hosts,
        redact=redact,
    )
    exit_code = None
    try:
        # A lock is always of the whole fleet; so is the look at it that makes one.
        with looking(say) as progress:
            found = survey(wave if lock else fleet, keep_open=True, progress=progress)
        solutions = answers(wave if lock else fleet, found, lock)
        if lock is None:
            lock = make_lock(fleet, solutions, path, say)
        if lock is not None:
            record.locked_to(lock.digest)
        outcomes, plans = judge(wave, found, solutions)
        for outcome in outcomes.values():
            record.result(outcome.host, outcome.status, message=outcome.message)
        summary(wave, plans, outcomes, say)
        todo = {name: plan for name, plan in plans.items() if name not in outcomes}
        if todo:
            consents = ask(todo, arguments, terminal, say)
            if consents is None:
                print("nothing was changed", file=say)
                exit_code = exits.NOT_LOOKED_AT
                return exit_code
            work = [
                Work(
                    wave.hosts[name], make_wanted(wave, solutions, name), found.facts[name], consent
                )
                for name, consent in consents.items()
            ]
            close(found, except_for=todo)
            with Progress(todo, say) as shown:
                try:
                    outcomes |= run_wave(work, found.connections, run=record, progress=shown)
                except KeyboardInterrupt:
                    interrupted(shown, record, say)
                    raise
        else:
            close(found)
        exit_code = result_code(outcomes)
        show(outcomes, arguments.inventory, record, say)
        if arguments.json:
            write_json(arguments.json, document(outcomes, record, lock, exit_code))
        return exit_code
    finally:
        record.end(exit_code, "interrupted" if exit_code is None else "finished")


def check(arguments: argparse.Namespace, terminal: bool) -> None:
    """Refuse options that cannot be meant, before anything is looked at."""
    faults = []
    if not terminal and not arguments.yes:
        faults.append(
            Fault(
                "apply",
                "--yes",
                "needs --yes when there is no terminal to ask on (and --reboot where hosts may "
                "reboot); to see what it would do: gpufleet plan " + arguments.inventory,
            )
        )
    if not 10 <= arguments.reboot_timeout <= 24 * 3600:
        faults.append(
            Fault(
                "apply",
                "--reboot-timeout",
                f"found {arguments.reboot_timeout}: wanted 10 to 86400 seconds",
            )
        )
    if faults:
        raise WrongInput(faults)


def command_line(arguments: argparse.Namespace) -> list[str]:
    """What was asked, as the record shows it."""
    words = [arguments.inventory]
    if arguments.limit:
        words += ["--limit", arguments.limit]
    words += ["--yes"] * arguments.yes
    words += {True: ["--reboot"], False: ["--no-reboot"], None: []}[arguments.reboot]
    return words


def make_lock(
    fleet: Fleet, solutions: Mapping[str, Solution], path: Path, say: TextIO
) -> Lock | None:
    """Write the lock that did not exist; None when no host could be solved."""
    if not any(solution.stack for solution in solutions.values()):
        return None
    lock = new_lock(fleet, dict(solutions))
    write_lock(path, lock)
    print(f"no lock yet: solved {len(lock.hosts)} hosts and wrote {path}", file=say)
    return lock


def summary(
    fleet: Fleet, plans: Mapping[str, HostPlan], outcomes: Mapping[str, Outcome], say: TextIO
) -> None:
    """What will happen, before anybody is asked."""
    todo = [name for name in plans if name not in outcomes]
    count = Counter(outcome.status for outcome in outcomes.values())
    reboots = [name for name in todo if plans[name].reboot and not plans[name].busy]
    parts = [f"{count['unchanged']} as wanted", f"{len(todo)} to change"]
    parts += [f"{len(reboots)} of them with a reboot"] * bool(reboots)
    parts += [
        f"{count[status]} {status}"
        for status in ("busy", "blocked", "unreachable")
        if count[status]
    ]
    print(f"{fleet.name}: {len(fleet.hosts)} hosts: {', '.join(parts)}", file=say)
    for steps, names in _alike(plans, todo).items():
        print(f"  {fold(names)}", file=say)
        for step in steps:
            print(f"    {step}", file=say)
    download = sum(plans[name].download for name in todo)
    if download:
        print(f"  about {download / 1e9:.1f} GB to fetch over all hosts", file=say)
    for name in todo:
        if plans[name].busy:
            print(
                f"  {name} is in use by {', '.join(plans[name].busy)}: "
                "what would disturb them is left out",
                file=say,
            )
    print(f"  {NO_GATE}", file=say)


def _alike(plans: Mapping[str, HostPlan], names: Iterable[str]) -> dict[tuple[str, ...], list[str]]:
    """Hosts with equal steps, together."""
    alike: dict[tuple[str, ...], list[str]] = {}
    for name in names:
        plan = plans[name]
        lines = [f"{step.layer}: {step.title} ({step.why})" for step in plan.steps]
        lines += [f"reboot: {plan.reboot.why}"] if plan.reboot else []
        alike.setdefault(tuple(map(printable, lines)), []).append(name)
    return alike


def ask(
    todo: Mapping[str, HostPlan], arguments: argparse.Namespace, terminal: bool, say: TextIO
) -> dict[str, Consent] | None:
    """The operator's consent for every host; None when hosts are not to be changed.

    A reboot that was asked for on a terminal covers the hosts that were shown; `--reboot` covers
    every host of the run.
    """
    if not arguments.yes and not _yes(f"Change {fold(todo)}?", say):
        return None
    shown = [name for name, plan in todo.items() if plan.reboot and not plan.busy]
    if arguments.reboot is None and terminal and not arguments.yes and shown:
        agreed = set(shown) if _yes(f"Reboot {fold(shown)} when it is due?", say) else set()
    else:
        agreed = set(todo) if arguments.reboot else set()
        if arguments.reboot is None and shown:
            print(f"no --reboot given: {fold(shown)} will not be rebooted", file=say)
    return {
        name: Consent(reboot=name in agreed, reboot_deadline_s=arguments.reboot_timeout)
        for name in todo
    }


def _yes(question: str, say: TextIO) -> bool:
    print(f"{question} [y/N] ", end="", file=say, flush=True)
    return sys.stdin.readline().strip().lower() in {"y", "yes"}


def close(found: Survey, except_for: Iterable[str] = ()) -> None:
    for name in found.connections.keys() - set(except_for):
        found.connections[name].close()


def interrupted(shown: Progress, record: Run, say: TextIO) -> None:
    working = shown.in_flight()
    print(f"\ninterrupted; {len(working)} hosts were being changed:", file=say)
    for line in working:
        print(f"  {line}", file=say)
    print(
        "  a step that had begun ends on its host by itself; the next apply waits for it, looks "
        f"afresh and goes on\n  record: {record.directory}",
        file=say,
    )


def result_code(outcomes: Mapping[str, Outcome]) -> int:
    statuses = {outcome.status for outcome in outcomes.values()}
    if statuses & FAILED:
        return exits.FAILED
    return exits.NOT_LOOKED_AT if statuses & NOT_DONE else exits.OK


def show(outcomes: Mapping[str, Outcome], inventory: str, record: Run, say: TextIO) -> None:
    """The end of a run: what failed and why, then one line."""
    for outcome in outcomes.values():
        if outcome.status in FAILED | NOT_DONE:
            print(f"\n{outcome.host}: {outcome.status}: {outcome.message}", file=say)
            for line in outcome.tail:
                print(f"    {line}", file=say)
            if outcome.log:
                print(f"  raw log: {outcome.log}", file=say)
            print(f"  next: gpufleet apply {inventory} --limit {outcome.host}", file=say)
    changes = sum(len(outcome.changed) + outcome.rebooted for outcome in outcomes.values())
    count = Counter(outcome.status for outcome in outcomes.values())
    parts = ", ".join(f"{number} {status}" for status, number in sorted(count.items()))
    print(f"{changes} changes; {parts}; {NO_GATE}; record: {record.directory}", file=say)


def document(
    outcomes: Mapping[str, Outcome], record: Run, lock: Lock | None, exit_code: int
) -> dict[str, Any]:
    return {
        "version": 1,
        "run": str(record.directory),
        "lock": lock.digest if lock else "",
        "gate": None,
        "exit": exit_code,
        "hosts": {name: outcome.model_dump(mode="json") for name, outcome in outcomes.items()},
    }


def write_json(target: str, content: dict[str, Any]) -> None:
    text = json.dumps(content, indent=1) + "\n"
    if target == "-":
        sys.stdout.write(text)
    else:
        Path(target).write_text(text, encoding="utf-8")
