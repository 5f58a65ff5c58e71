"""Bring hosts to their locked stacks; a second run changes nothing."""

import argparse
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TextIO

from rich.console import Console
from rich.text import Text

from deploy.commands.plan import make_plans
from deploy.engine.converge import Consent
from deploy.engine.outcome import exit_code, show, write_json
from deploy.engine.progress import Progress
from deploy.engine.reboot import DEADLINE_S
from deploy.engine.wave import Work, run_wave, settle
from deploy.fleet import exits
from deploy.fleet.errors import Fault, WrongInput
from deploy.fleet.inventory import Fleet, read_inventory
from deploy.fleet.names import fold
from deploy.fleet.runs import Run, begin
from deploy.fleet.waiting import Waiting
from deploy.gone import without_gone
from deploy.lock import Lock, lock_path, read_lock, write_lock
from deploy.locking import answers, new_lock
from deploy.plan import HostPlan
from deploy.show_plan import View, in_one_line, render
from deploy.stack import Solution, Stack
from deploy.steps import Wanted
from deploy.survey import Survey, survey

NO_GATE = "one wave; no verification gate ran"


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
    say = sys.stderr if arguments.json == "-" else sys.stdout
    terminal = sys.stdin.isatty() and say.isatty()
    check(arguments, terminal)
    fleet = read_inventory(arguments.inventory)
    wave = fleet.limit(arguments.limit) if arguments.limit is not None else fleet
    path = lock_path(Path(arguments.inventory))
    lock = read_lock(path)
    if lock is not None:
        answers(wave, Survey(), lock)  # refuses a stale lock before anything is connected
    record = begin("apply", command_line(arguments), fleet, wave)
    code = None
    try:
        # A lock is always of the whole fleet; so is the look at it that makes one.
        asked = wave if lock else fleet
        with Waiting("looking", asked.hosts, sys.stderr) as waiting:
            found = survey(asked, ended=waiting.ended)
        solutions = answers(wave if lock else fleet, found, lock)
        fresh = lock is None
        if lock is None:
            lock = make_lock(fleet, solutions, path, say)
        if lock is not None:
            record.locked_to(lock.digest)
        plans = make_plans(wave, found, solutions)
        if not fresh:
            plans = without_gone(wave, found, solutions, plans)
        outcomes = settle(wave, found, plans)
        for outcome in outcomes.values():
            record.result(outcome.host, outcome.status, message=outcome.message)
        stacks = {name: one.stack for name, one in solutions.items() if one.stack and name in plans}
        preview(wave, found, plans, path if lock else None, stacks, say)
        todo = {name: plan for name, plan in plans.items() if name not in outcomes}
        if todo:
            consents = ask(todo, arguments, terminal, say)
            if consents is None:
                print("nothing was changed", file=say)
                code = exits.NOT_LOOKED_AT
                return code
            work = [
                Work(
                    wave.hosts[name], make_wanted(wave, solutions, name), found.facts[name], consent
                )
                for name, consent in consents.items()
            ]
            with Progress(todo, say) as shown:
                try:
                    outcomes |= run_wave(work, run=record, progress=shown)
                except KeyboardInterrupt:
                    interrupted(shown, record, say)
                    raise
        code = exit_code(outcomes)
        show(outcomes, f"gpufleet apply {arguments.inventory}", record, NO_GATE, say)
        if code == exits.OK:
            limited = f" --limit {shlex.quote(arguments.limit)}" if arguments.limit else ""
            print(f"next: gpufleet verify {arguments.inventory}{limited}", file=say)
        if arguments.json:
            write_json(arguments.json, outcomes, record, lock.digest if lock else "", code)
        return code
    except WrongInput:
        code = exits.WRONG_INPUT
        raise
    finally:
        record.end(code, "interrupted" if code is None else "finished")


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
    target = arguments.json
    if target not in (None, "-") and not Path(target).absolute().parent.is_dir():
        faults.append(Fault("apply", "--json", f"found {target}: its folder does not exist"))
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
    lock = new_lock(fleet, dict(solutions)).sealed()
    write_lock(path, lock)
    print(f"no lock yet: solved {len(lock.hosts)} hosts and wrote {path}", file=say)
    return lock


def make_wanted(fleet: Fleet, solutions: Mapping[str, Solution], name: str) -> Wanted:
    stack = solutions[name].stack
    if stack is None:
        raise AssertionError(f"{name} has a plan and no stack")
    return Wanted(host=name, spec=fleet.hosts[name].spec, stack=stack)


def preview(
    fleet: Fleet,
    found: Survey,
    plans: Mapping[str, HostPlan],
    lock: Path | None,
    stacks: Mapping[str, Stack],
    say: TextIO,
) -> None:
    """What will happen, as `gpufleet plan` shows it, before anybody is asked."""
    view = View(
        fleet=fleet.name,
        inventory=str(fleet.path),
        lock=str(lock) if lock else "",
        stacks=len({stack.id for stack in stacks.values()}),
        plans=plans,
        unreachable={n: why for n, why in found.unreachable.items() if n in fleet.hosts},
        notes={},
        chosen={name: in_one_line(stack) for name, stack in stacks.items()},
    )
    console = Console(file=say)
    for style, text in render(view)[:-1]:  # its last line names the next command: this one
        console.print(Text(text, style=style), soft_wrap=True, highlight=False)
    if any(plan.steps for plan in plans.values()):
        print("all of it in one wave, without a verification gate", file=say)


def ask(
    todo: Mapping[str, HostPlan], arguments: argparse.Namespace, terminal: bool, say: TextIO
) -> dict[str, Consent] | None:
    """The operator's consent for every host; None when hosts are not to be changed.

    A reboot that was asked for on a terminal covers the hosts that were shown; `--reboot` covers
    every host of the run.
    """
    if not arguments.yes and not yes(f"Change {fold(todo)}?", say):
        return None
    shown = [name for name, plan in todo.items() if plan.reboot and not plan.busy]
    if arguments.reboot is None and terminal and not arguments.yes and shown:
        agreed = set(shown) if yes(f"Reboot {fold(shown)} when it is due?", say) else set()
    else:
        agreed = set(todo) if arguments.reboot else set()
        if arguments.reboot is None and shown:
            print(f"no --reboot given: {fold(shown)} will not be rebooted", file=say)
    return {
        name: Consent(reboot=name in agreed, reboot_deadline_s=arguments.reboot_timeout)
        for name in todo
    }


def yes(question: str, say: TextIO) -> bool:
    """Ask on the terminal; anything but y or yes means no."""
    print(f"{question} [y/N] ", end="", file=say, flush=True)
    return sys.stdin.readline().strip().lower() in {"y", "yes"}


def interrupted(shown: Progress, record: Run, say: TextIO) -> None:
    print("\ninterrupted while changing:", file=say)
    for line in shown.in_flight() or ["no host yet"]:
        print(f"  {line}", file=say)
    print(
        "  a step that had begun ends on its host by itself; the next apply waits for it, looks "
        f"afresh and goes on\n  record: {record.directory}",
        file=say,
    )
