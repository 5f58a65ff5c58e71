"""One finding as lines of text: where, what, what shows it, what to do. Pure."""

import textwrap
from collections.abc import Iterator

from deploy.fleet.runs import printable
from verify.report.advice import BASELINE, again, mend, todo
from verify.report.groups import Case, Facet, Group, part_name, places
from verify.report.screen import WIDTH, Line
from verify.report.view import View, many

STYLE = {
    "fail": "red",
    "hung": "magenta",
    "unreachable": "red",
    "not-run": "yellow",
    "degraded": "yellow",
    "pass": "green",
    "not-asked": "dim",
}
MOST_FACETS = 3
MOST_PLACES = 4
MOST_PARTS = 2
"""Components whose UUID, serial and slot are told."""
MOST_EVIDENCE = 3
MOST_ROWS = 2
"""Of one line of evidence."""
MOST_NAMES = 4


def tell(
    number: int, group: Group, view: View, width: int = WIDTH, whole: bool = False
) -> list[Line]:
    """A finding with everything that an operator needs; `whole` leaves no evidence out."""
    title = f"{number}. {group.verdict}: {where(group.cases)}: {group.check or 'no result'}"
    lines = [*wrapped(f"bold {STYLE[group.verdict]}", title, width, "", 3)]
    lines += wrapped("dim", group.claim, width, "   ")
    facets = group.facets if whole else group.facets[:MOST_FACETS]
    for facet in facets:
        lines += _facet(facet, group, width, whole)
    rest = group.facets[len(facets) :]
    if rest:
        hosts = {case.host for facet in rest for case in facet.cases}
        said = f"and {many(len(rest), 'other reading')} on {many(len(hosts), 'host')}"
        lines.append(("dim", f"   {said}"))
    for said in consequences(group):
        lines += wrapped("dim", said, width, "   ")
    lines += wrapped("bold", f"do:    {todo(group)}", width, "   ", 7)
    command = mend(group, view.run.inventory)
    lines += [("", f"   mend:  {printable(command)}")] if command else []
    retry = again(group.check, group.hosts, view.run.inventory, view.level, view.way)
    return [*lines, ("", f"   again: {printable(retry)}")]


def where(cases: list[Case]) -> str:
    """Hosts and components of a finding, the number of hosts at last."""
    named = places(cases)
    more = f" and {many(len(named) - MOST_PLACES, 'more such')}" if len(named) > MOST_PLACES else ""
    hosts = len({case.host for case in cases})
    count = f" ({hosts} hosts)" if hosts > 1 else ""
    return printable("; ".join(cut(name, 60) for name in named[:MOST_PLACES])) + more + count


def consequences(group: Group) -> list[str]:
    """What follows from a cause, in a sentence for what could not be seen and one for what was."""
    told = []
    blind = [case for case in group.cases if case.silenced]
    if blind:
        counts = {len(case.silenced) for case in blind}
        parts = {part_name(case.component) for case in blind if case.component.kind == "gpu"}
        place = f" at {parts.pop()}" if len(parts) == 1 else ""
        most = many(max(counts), "check") if len(counts) == 1 else f"up to {max(counts)} checks"
        told.append(f"{most} could not look{place} because of it: {_names(group.silenced)}")
    if group.echoes:
        told.append(f"seen because of it, too: {_names(group.echoes)}")
    return told


def _names(ids: list[str]) -> str:
    more = f" and {len(ids) - MOST_NAMES} more" if len(ids) > MOST_NAMES else ""
    return ", ".join(ids[:MOST_NAMES]) + more


def reading(one: Facet | Case) -> str:
    """What was found and what was expected, by what baseline."""
    said = f"{one.what}: found {one.found or 'nothing'}"
    if one.expected:
        by = BASELINE.get(one.baseline, "")
        said += f", expected {one.expected}" + (f" ({by})" if by else "")
    return printable(said)


def identity(case: Case) -> str:
    """UUID, serial and slot of a component, as far as they are known."""
    part = case.component
    named = (part.uuid, part.serial and f"serial {part.serial}", part.slot and f"slot {part.slot}")
    return printable(", ".join(one for one in named if one))


def _facet(facet: Facet, group: Group, width: int, whole: bool) -> Iterator[Line]:
    at = f"{where(list(facet.cases))}: " if len(group.facets) > 1 else ""
    yield from wrapped("", at + reading(facet), width, "   ", 2)
    if whole or len(facet.cases) <= MOST_PARTS:
        for case in facet.cases:
            yield from wrapped("dim", identity(case), width, "   ")
    for line in facet.cases[0].others:
        yield from wrapped("dim", f"also by {line}", width, "   ", 2)
    evidence = facet.cases[0].evidence
    shown = evidence if whole else evidence[:MOST_EVIDENCE]
    for line in shown:
        rows = list(wrapped("cyan", f"| {line}", width, "   ", 2))
        yield from rows if whole else rows[:MOST_ROWS]
    if len(evidence) > len(shown):
        more = many(len(evidence) - len(shown), "more line")
        yield "dim", f"   | {more}: gpufleet explain {facet.cases[0].host}"


def cut(text: str, width: int) -> str:
    return text if len(text) <= width else text[: max(1, width - 3)] + "..."


def wrapped(style: str, text: str, width: int, indent: str, hang: int = 0) -> Iterator[Line]:
    """Text of a host in lines of at most `width` columns."""
    for line in textwrap.wrap(
        printable(text),
        width,
        initial_indent=indent,
        subsequent_indent=indent + " " * hang,
        break_on_hyphens=False,
    ):
        yield style, line
