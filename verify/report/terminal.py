"""A verify run on a terminal: hosts folded, then what to do first. Pure but for `show`.

A screen, not a scroll, however large the fleet: every part is bounded and says what it left out.
"""

import shlex
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from typing import TextIO

from deploy.fleet import exits
from deploy.fleet.names import fold
from deploy.fleet.runs import printable
from verify.checks import LEVELS
from verify.report.advice import deed
from verify.report.besides import information_lines, waived_lines
from verify.report.groups import Group, accepted, groups
from verify.report.screen import WIDTH, Line, write
from verify.report.telling import STYLE, cut, tell, where, wrapped
from verify.report.unasked import unasked
from verify.report.view import EXCUSED, GOOD, WORST_FIRST, View, many, meaning, tally
from verify.results import HostVerdict, HostVerification

MOST_ROWS = 10
MOST_WHOLE = 4
"""Findings that are told whole; the others get one line each."""
MOST_SHORT = 12
MOST_UNASKED = 4
MOST_NOTES = 4


def show(view: View, stream: TextIO) -> None:
    """Print the report: coloured on a terminal, plain elsewhere."""
    write(lambda width: render(view, width), stream)


def render(view: View, width: int = WIDTH) -> list[Line]:
    """The whole report as lines."""
    found = groups(view.hosts.values())
    lines = [*_head(view, width), ("", ""), *table(view.hosts.values(), width)]
    for number, group in enumerate(found[:MOST_WHOLE], 1):
        lines += [("", ""), *tell(number, group, view, width)]
    if len(found) > MOST_WHOLE:
        lines += [("", ""), *_short(found, width)]
    lines += [("", ""), *waived_lines(view, width), *_unasked(view, width)]
    return [
        *lines,
        *information_lines(view, width),
        *_notes(view, width),
        *_end(view, width),
    ]


def _head(view: View, width: int) -> Iterator[Line]:
    count = tally(one.verdict for one in view.hosts.values())
    said = ", ".join(f"{number} {verdict}" for verdict, number in count.items()) or "no hosts"
    excused = sum(bool(one.excused) for one in view.hosts.values())
    said += f", {excused} of them {EXCUSED}" if excused else ""
    style = STYLE.get(next(iter(count), ""), "")
    facts = [view.level, many(max((len(one.checks) for one in view.results), default=0), "check")]
    facts += [f"{view.seconds:.1f} s"] if view.seconds is not None else []
    head = f"{view.fleet}: {many(len(view.hosts), 'host')}: {said} ({', '.join(facts)})"
    yield from wrapped(f"bold {style}".strip(), head, width, "")
    if view.simulated:
        which = "" if len(view.simulated) == len(view.hosts) else f" on {fold(view.simulated)}"
        yield "yellow", f"SIMULATED HARDWARE{which}: this says nothing about real GPUs"


def table(hosts: Iterable[HostVerification], width: int) -> Iterator[Line]:
    """Hosts with one verdict for the same reasons on one row, the worst first."""
    alike: dict[tuple[HostVerdict, str, str], list[str]] = defaultdict(list)
    for one in hosts:
        found = groups([one])
        alike[one.verdict, deed(found[0]) if found else "", _why(one, found)].append(one.host)
    rows = sorted(alike.items(), key=lambda row: (WORST_FIRST.index(row[0][0]), -len(row[1])))
    cells = []
    for (verdict, do, why), names in rows:
        count = f" ({len(names)})" if len(names) > 1 else ""
        cells.append((verdict, cut(fold(names), 34 - len(count)) + count, do, why))
    # Rows of hosts that pass stay: how much of the fleet is left matters.
    good = [row for row in cells if row[0] in GOOD][:3]
    shown = [row for row in cells if row[0] not in GOOD][: MOST_ROWS - len(good)] + good
    widths = [max((len(row[column]) for row in shown), default=0) for column in range(3)]
    for row in shown:
        text = "  ".join(f"{cell:<{wide}}" for cell, wide in zip(row, [*widths, 0], strict=True))
        yield STYLE[row[0]], cut(text.rstrip(), width)
    if len(cells) > len(shown):
        yield "dim", f"and {len(cells) - len(shown)} more kinds of hosts"


def _why(one: HostVerification, found: list[Group]) -> str:
    """The reasons of a verdict; of a host that passes, its GPUs."""
    if one.result is None:
        return printable(f"{EXCUSED}: {one.excused}") if one.excused else ""
    names = Counter(gpu.name for gpu in one.result.gpus)
    had = [f"{count}x {name}" for name, count in names.items()] or ["no GPU"]
    waived = len(accepted(one))
    said = [group.check for group in found] or ([many(waived, "waived finding")] if waived else had)
    return printable(", ".join([*dict.fromkeys(said), *(["busy"] if one.result.busy else [])]))


def _short(found: list[Group], width: int) -> Iterator[Line]:
    rest = found[MOST_WHOLE:]
    yield "bold", f"{many(len(rest), 'more finding')}, told by gpufleet explain HOST:"
    for number, group in enumerate(rest[:MOST_SHORT], MOST_WHOLE + 1):
        name = group.check or "no result"
        text = f"{number}. {group.verdict}: {name}: {deed(group)}: {where(group.cases)}"
        yield STYLE[group.verdict], cut(text, width)
    if len(rest) > MOST_SHORT:
        yield "dim", f"and {len(rest) - MOST_SHORT} more"


def _unasked(view: View, width: int) -> Iterator[Line]:
    told = unasked(view)
    for reason, checks, hosts in told[:MOST_UNASKED]:
        place = "" if len(hosts) == len(view.results) else f" on {cut(fold(hosts), 30)}"
        named = ", ".join(checks) if len(checks) <= 2 else many(len(checks), "check")
        text = f"not asked{place}: {named}: {reason}"
        yield from wrapped("dim", text, width, "", 2)
    if len(told) > MOST_UNASKED:
        yield "dim", f"not asked for {many(len(told) - MOST_UNASKED, 'more reason')}"


def _notes(view: View, width: int) -> Iterator[Line]:
    alike: dict[str, list[str]] = defaultdict(list)
    for one in view.hosts.values():
        for note in one.notes:
            alike[note].append(one.host)
    told = sorted(alike.items(), key=lambda row: -len(row[1]))
    for note, hosts in told[:MOST_NOTES]:
        place = "all" if len(hosts) == len(view.hosts) > 1 else cut(fold(hosts), 30)
        yield from wrapped("dim", f"note: {place}: {note}", width, "", 2)
    if len(told) > MOST_NOTES:
        yield "dim", f"and {many(len(told) - MOST_NOTES, 'more note')}"


def _end(view: View, width: int) -> Iterator[Line]:
    yield "dim", f"record: {printable(view.place)}"
    yield "dim", f"page:   {printable(view.page or f'gpufleet report {view.run.id} --html FILE')}"
    yield from wrapped("bold", meaning(view.run), width, "")
    if view.run.exit == exits.OK and view.level == LEVELS[0] and view.results:
        inventory = shlex.quote(view.run.inventory)
        yield "", printable(f"next: gpufleet verify {inventory} --level {LEVELS[1]}")
