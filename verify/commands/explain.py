"""Explain a check (what it claims, why, what turns it red), a code of the kernel log (xid-79,
sxid-20034), a finding by its number in a run's report (finding-2), or a host's verdict in a run.

Reads only. Without RUN it is the newest verify run below runs/, for a host the newest that has it.
Exit codes: 0 it was explained, 2 wrong input; an unknown name comes back with the nearest ones.
"""

import argparse
import re
import sys
from collections.abc import Iterator
from difflib import get_close_matches

from deploy.fleet import exits
from deploy.fleet.errors import Fault, WrongInput
from deploy.fleet.runs import printable
from verify.checks import LEVELS, Check
from verify.commands import options
from verify.commands.explain_code import code_of, of_code
from verify.judging.claims import OFFLINE
from verify.report.advice import DO
from verify.report.age import ago
from verify.report.besides import leave
from verify.report.catalogue import catalogue
from verify.report.groups import Group, accepted, groups, part_name
from verify.report.read import Recorded, find_verify, read_view, recorded
from verify.report.screen import Line, write
from verify.report.signoff import second
from verify.report.telling import STYLE, reading, tell, wrapped
from verify.report.view import View, many
from verify.results import Measurement

FINDING = re.compile(r"finding-(\d{1,4})")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "name",
        metavar="CHECK|XID|FINDING|HOST",
        help="as gpu.ecc, xid-79, finding-2 (by its number in a report), or a host of a run",
    )
    parser.add_argument("run", nargs="?", metavar="RUN", help="id or directory of a run")


def run(arguments: argparse.Namespace) -> int:
    name = arguments.name
    check = catalogue().get(name)
    if check is not None:
        write(lambda width: of_check(check, width), sys.stdout)
        return exits.OK
    code = code_of(name)
    if code is not None:
        write(lambda width: of_code(*code, width), sys.stdout)
        return exits.OK
    number = FINDING.fullmatch(name)
    if number is not None:
        view = read_view(find_verify(arguments.run))
        group = _group(int(number[1]), view)
        write(lambda width: of_finding(int(number[1]), group, view, width), sys.stdout)
        return exits.OK
    view = read_view(_run_with(name, arguments.run))
    write(lambda width: of_host(name, view, width), sys.stdout)
    return exits.OK


def _run_with(host: str, given: str | None) -> Recorded:
    """The run to explain a host from. Raises WrongInput with the nearest names."""
    if given is not None:
        runs = [find_verify(given)]
    else:
        runs = [one for one in recorded() if one.verifies]
    for one in runs:
        if one.run is not None and host in one.run.hosts:
            return one
    hosts = {name for one in runs if one.run is not None for name in one.run.hosts}
    near = get_close_matches(host, [*catalogue(), *sorted(hosts)], n=3, cutoff=0.5)
    where = "no check, and no host of " + (f"{given}" if given else "a verify run below runs/")
    hint = f"; nearest: {', '.join(near)}" if near else ""
    raise WrongInput([Fault("explain", printable(host), f"is {where}{hint}")])


def _group(number: int, view: View) -> Group:
    """The finding of that number in a run's report. Raises WrongInput."""
    found = groups(view.hosts.values())
    if 1 <= number <= len(found):
        return found[number - 1]
    had = f"has findings 1 to {len(found)}" if found else "has no finding"
    raise WrongInput([Fault("explain", f"finding-{number}", f"run {view.run.id} {had}")])


def of_finding(number: int, group: Group, view: View, width: int) -> Iterator[Line]:
    """One finding whole, then the check that made it."""
    yield "dim", f"run {view.run.id}, {ago(view.run.started)} ago, level {view.level}"
    yield from tell(number, group, view, width, whole=True)
    check = catalogue().get(group.check)
    if check is not None:
        yield "", ""
        yield from of_check(check, width)


def of_check(check: Check, width: int) -> Iterator[Line]:
    """A check for people."""
    yield "bold", check.id
    yield from wrapped("", check.claim, width, "  ")
    for label, text in (
        ("level", check.level + (" (and every level above)" if check.level == "quick" else "")),
        ("asked", f"where these hold: {', '.join(check.needs)}" if check.needs else "always"),
        ("action", DO.get(check.action, "leave it in use")),
        ("source", check.source),
        ("fault", _fault(check)),
    ):
        yield from wrapped("", f"{label:<7} {text}", width, "  ", 8)
    level = "" if check.level == LEVELS[0] else f" {options.words(check.level, check.id)}"
    yield "", f"  run it: gpufleet verify INVENTORY --check {check.id}{level}"


def _fault(check: Check) -> str:
    if check.fault.startswith(OFFLINE):
        return f"{check.fault.removeprefix(OFFLINE)}, in tests, turns it red"
    return f"{check.fault} of the simulated fleet turns it red"


def of_host(name: str, view: View, width: int) -> Iterator[Line]:
    """Why a host has its verdict: every finding whole, then what else was and was not asked."""
    one = view.hosts[name]
    run = view.run
    when = f"{run.id}, {ago(run.started)} ago, level {view.level}"
    yield f"bold {STYLE[one.verdict]}", f"{name}: {one.verdict} ({when})"
    if name in view.simulated:
        yield "yellow", "SIMULATED HARDWARE: this says nothing about real GPUs"
    for number, group in enumerate(groups([one]), 1):
        yield "", ""
        yield from tell(number, group, view, width, whole=True)
    for case in accepted(one):
        text = f"{case.verdict}: {case.check}: {part_name(case.component)}: {reading(case)}"
        yield from wrapped("yellow", f"{leave(case)}: {text}", width, "", 2)
    for note in one.notes:
        yield from wrapped("dim", f"note: {note}", width, "", 2)
    result = one.result
    if result is None:
        return
    yield "", ""
    good = [check.id for check in result.checks if check.verdict == "pass"]
    held = f"{many(len(good), 'check')} held"
    yield from wrapped("green", f"{held}: {', '.join(good)}" if good else held, width, "", 2)
    for one_gpu in result.gpus:
        text = f"GPU {one_gpu.index}  {one_gpu.name}  {one_gpu.uuid}  {one_gpu.slot}"
        yield from wrapped("dim", text, width, "  ", 2)
    for line in result.information:
        yield from wrapped("", f"told: {line}", width, "", 2)
    for user in result.busy:
        yield from wrapped("yellow", f"in use: {user}", width, "", 2)
    for skipped in result.not_asked:
        yield from wrapped("dim", f"not asked: {skipped.id}: {skipped.reason}", width, "", 2)
    for figure in (one for one in result.measurements if second(one) is None):
        yield from wrapped("", f"measured: {_figure(figure)}", width, "", 2)
    expected = f"expected state from: {result.expected_from} {result.stack}".rstrip()
    yield from wrapped("dim", f"{expected}; {result.user}, Python {result.python}", width, "", 2)
    yield "dim", f"record: {printable(view.place)}"


def _figure(one: Measurement) -> str:
    where = part_name(one.component)
    under = ", ".join(f"{key} {value}" for key, value in one.conditions.items())
    return f"{one.name} {where} {one.value:.6g} {one.unit}" + (f" ({under})" if under else "")
