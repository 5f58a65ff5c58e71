"""Look at every host and say whether it can train, and where it cannot.

quick asks what is there and changes nothing: seconds a host, safe beside running jobs. standard
adds the training proof, and leaves hosts alone whose GPUs are in use. Exit codes: 0 nothing failed
and all that was asked was looked at, 1 something failed or hung (with --strict: or is degraded),
2 wrong input, 4 something could not be looked at (unreachable, not-run, busy).
"""

import argparse
import sys
from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path

from deploy.fleet.errors import Fault, WrongInput
from deploy.fleet.inventory import Fleet, read_inventory
from deploy.fleet.names import fold
from deploy.fleet.runs import Run, begin
from deploy.fleet.waiting import Waiting
from deploy.lock import lock_path, read_lock
from verify.bundle import bundle
from verify.checks import LEVELS
from verify.expectation import expectations
from verify.judge import exit_code, judge
from verify.report.catalogue import catalogue
from verify.report.document import write_json
from verify.report.groups import REACHABLE
from verify.report.html import write_page
from verify.report.read import look, read_view
from verify.report.terminal import show
from verify.results import HostVerification
from verify.runner import Question, ask_all


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("inventory", help="pyinfra inventory file")
    parser.add_argument(
        "--level", default=LEVELS[0], help=f"{' or '.join(LEVELS)} (default: %(default)s)"
    )
    parser.add_argument("--limit", help="hosts, node sets, groups or globs, comma-separated")
    parser.add_argument(
        "--check",
        action="append",
        default=[],
        metavar="ID",
        help="only this check; may be repeated",
    )
    parser.add_argument(
        "--json", nargs="?", const="-", metavar="FILE", help="write the result as JSON (- = stdout)"
    )
    parser.add_argument("--strict", action="store_true", help="a degraded host ends with 1 too")
    parser.add_argument(
        "--accept-hardware",
        action="store_true",
        help="take the GPUs that are there now for each host's own from now on",
    )


def run(arguments: argparse.Namespace) -> int:
    check(arguments)
    fleet = read_inventory(arguments.inventory)
    asked = fleet.limit(arguments.limit) if arguments.limit is not None else fleet
    lock = read_lock(lock_path(Path(arguments.inventory)))
    expected, warnings = expectations(asked, lock)
    question = Question(
        level=arguments.level,
        checks=tuple(id for id in dict.fromkeys(arguments.check) if id != REACHABLE),
        asked=frozenset(arguments.check or of_level(arguments.level)) - {REACHABLE},
        known=frozenset(catalogue()) - {REACHABLE},
        expected=expected,
        accept_hardware=arguments.accept_hardware,
        bundle=bundle(),
    )
    say = sys.stderr if arguments.json == "-" else sys.stdout
    record = begin("verify", command_line(arguments), fleet, asked)
    code = None
    try:
        if lock is not None:
            record.locked_to(lock.digest)
        for why, names in folded(warnings):
            record.event("warning", text=why, hosts=names)
            print(f"warning: {fold(names)}: {why}", file=sys.stderr)
        found = verify(asked, question, record)
        code = exit_code((one.verdict for one in found), strict=arguments.strict)
    finally:
        record.end(code, "interrupted" if code is None else "finished")
    view = write_page(read_view(look(record.directory)))
    if arguments.json:
        write_json(view, arguments.json)
    show(view, say)
    return code


def check(arguments: argparse.Namespace) -> None:
    """Refuse options that cannot be meant, all in one message, before any host is asked."""
    faults = []
    levels = {name: one.level for name, one in catalogue().items()}
    if arguments.level not in LEVELS:
        message = f"found {arguments.level!r}: wanted {' or '.join(LEVELS)}"
        faults.append(Fault("verify", "--level", message))
    for id in arguments.check:
        if id not in levels:
            near = get_close_matches(id, levels, n=3, cutoff=0.5)
            hint = f"; did you mean {' or '.join(near)}?" if near else ""
            faults.append(Fault("verify", "--check", f"found {id!r}: no such check{hint}"))
        elif arguments.level in LEVELS and id not in of_level(arguments.level):
            message = f"{id} needs --level {levels[id]}"
            faults.append(Fault("verify", "--check", message))
    target = arguments.json
    if target not in (None, "-") and not Path(target).absolute().parent.is_dir():
        faults.append(Fault("verify", "--json", f"found {target}: its folder does not exist"))
    if faults:
        raise WrongInput(faults)


def of_level(level: str) -> set[str]:
    """Ids of the checks that a level asks: its own, and those of the levels before it."""
    levels = LEVELS[: LEVELS.index(level) + 1]
    return {name for name, one in catalogue().items() if one.level in levels}


def verify(fleet: Fleet, question: Question, record: Run) -> list[HostVerification]:
    """Ask every host, and record each verdict as it comes."""
    found = []
    with Waiting(f"verifying ({question.level})", fleet.hosts, sys.stderr) as waiting:
        for answer in ask_all(fleet, question):
            one = judge(answer)
            for note in one.notes:
                record.event("note", one.host, text=note)
            record.result(
                one.host,
                one.verdict,
                **one.model_dump(mode="json", by_alias=True, exclude={"host"}),
            )
            waiting.ended(one.host)
            found.append(one)
    return found


def folded(warnings: dict[str, str]) -> Iterable[tuple[str, list[str]]]:
    """Equal warnings once, with their hosts."""
    alike: dict[str, list[str]] = {}
    for name, why in warnings.items():
        alike.setdefault(why, []).append(name)
    return alike.items()


def command_line(arguments: argparse.Namespace) -> list[str]:
    """What was asked, as the record shows it."""
    words = [arguments.inventory, "--level", arguments.level]
    words += ["--limit", arguments.limit] if arguments.limit is not None else []
    for id in arguments.check:
        words += ["--check", id]
    words += ["--strict"] * arguments.strict
    return words + ["--accept-hardware"] * arguments.accept_hardware
