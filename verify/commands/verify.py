"""Look at every host and say whether it can train, and where it cannot.

quick asks what is there and changes nothing: seconds a host, safe beside running jobs. standard
adds the training proof and figures of speed, judged over all hosts and their past, and leaves hosts
alone whose GPUs are in use. deep adds a soak, run apart on the hosts: it outlives this command, and
gpufleet status RUN collects it. Exit codes: 0 nothing failed and all that was asked was looked at,
1 something failed or hung (with --strict: or is degraded and not waived), 2 wrong input,
4 something could not be looked at (unreachable, not-run, busy, still running).
"""

import argparse
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any, cast

from deploy.fleet.errors import WrongInput
from deploy.fleet.inventory import Fleet, read_inventory
from deploy.fleet.names import fold
from deploy.fleet.runs import Run, begin
from deploy.fleet.waiting import Waiting
from deploy.lock import lock_path, read_lock
from verify.bundle import with_site
from verify.checks import Check
from verify.commands import options
from verify.commands.deep import answers
from verify.commands.judged import Wanted, judged
from verify.commands.options import add_arguments as add_arguments
from verify.expectation import expectations, threshold_faults
from verify.judge import exit_code, judge
from verify.judging.whole import needed
from verify.report.catalogue import catalogue
from verify.report.document import write_json
from verify.report.html import write_page
from verify.report.read import look, read_view
from verify.report.terminal import show
from verify.results import HostVerification, Level
from verify.runner import Answer, Question
from verify.site_checks import folder_of, read_site
from verify.slurm import excuse

MINUTES = 15
"""How long level deep loads a host when nothing else is said."""


def run(arguments: argparse.Namespace, record: Run | None = None) -> int:
    """`record` is a run whose level deep is to be collected; without one a new run begins."""
    folder = folder_of(Path(arguments.inventory), arguments.checks)
    site = read_site(folder if folder and folder.is_dir() else None, catalogue())
    known = {**catalogue(), **site.checks}
    check(arguments, known)
    fleet = read_inventory(arguments.inventory)
    asked = fleet.limit(arguments.limit) if arguments.limit is not None else fleet
    if unread := threshold_faults(asked):
        raise WrongInput(unread)
    lock = read_lock(lock_path(Path(arguments.inventory)))
    expected, warnings = expectations(asked, lock)
    wanted = options.asked(arguments, known)
    on_hosts = {id for id, one in known.items() if one.where == "host"}
    together = Wanted(
        checks=frozenset(wanted - on_hosts),
        known=frozenset(known),
        accept_figures=arguments.accept_figures,
    )
    of_level = options.of_level_asked(arguments, known)
    wanted |= needed(together.checks, of_level & on_hosts)
    question = Question(
        level=cast(Level, options.level(arguments)),
        checks=tuple(sorted(wanted & on_hosts)) if arguments.check or arguments.workload else (),
        asked=frozenset(wanted & on_hosts),
        known=frozenset(on_hosts),
        expected=expected,
        env=arguments.env or "",
        train_as=arguments.train_as or "",
        via=arguments.via or "",
        minutes=arguments.minutes or MINUTES,
        detach=arguments.detach,
        accept_hardware=arguments.accept_hardware,
        bundle=with_site(site.files),
    )
    say = sys.stderr if arguments.json == "-" else sys.stdout
    words = [arguments.inventory, *options.given(arguments)]
    record = record or begin("verify", words, fleet, asked)
    code = None
    try:
        if lock is not None:
            record.locked_to(lock.digest)
        for why, names in folded(warnings):
            record.event("warning", text=why, hosts=names)
            print(f"warning: {fold(names)}: {why}", file=sys.stderr)
        found = verify(asked, question, together, record)
        code = exit_code(found, strict=arguments.strict)
    finally:
        record.end(code, "interrupted" if code is None else "finished")
    view = write_page(read_view(look(record.directory)))
    if arguments.json:
        write_json(view, arguments.json)
    show(view, say)
    return code


def check(arguments: argparse.Namespace, known: dict[str, Check]) -> None:
    """Refuse options that cannot be meant, all in one message, before any host is asked."""
    found = options.faults(arguments, known)
    if found:
        raise WrongInput(found)


def verify(
    fleet: Fleet, question: Question, together: Wanted, record: Run
) -> list[HostVerification]:
    """Ask every host, and record each verdict as it comes; then judge all of them together."""
    first: dict[str, tuple[Answer, HostVerification]] = {}
    with Waiting(f"verifying ({question.level})", fleet.hosts, sys.stderr) as waiting:
        for answer in answers(fleet, question, record):
            one = judge(answer)
            for note in one.notes:
                record.event("note", one.host, text=note)
            record.result(one.host, one.verdict, **_plain(one))
            waiting.ended(one.host)
            first[one.host] = (answer, one)
    found = judged(fleet, question, together, [answer for answer, _ in first.values()])
    found = excuse(fleet, found)
    for one in found:
        before = first[one.host][1]
        for note in one.notes[len(before.notes) :]:
            record.event("note", one.host, text=note)
        if one != before:
            record.revise(one.host, one.verdict, **_plain(one))
    return found


def _plain(one: HostVerification) -> dict[str, Any]:
    return one.model_dump(mode="json", by_alias=True, exclude={"host"})


def folded(warnings: dict[str, str]) -> Iterable[tuple[str, list[str]]]:
    """Equal warnings once, with their hosts."""
    alike: dict[str, list[str]] = {}
    for name, why in warnings.items():
        alike.setdefault(why, []).append(name)
    return alike.items()
