"""What a run tells besides its findings: waived ones, and what is only worth reading. Pure."""

from collections import defaultdict
from collections.abc import Iterator

from deploy.fleet.names import fold
from verify.report.groups import Case, accepted
from verify.report.markup import Html, tag
from verify.report.screen import Line
from verify.report.telling import cut, reading, where, wrapped
from verify.report.view import View, many

MOST_WAIVED = 6
MOST_TOLD = 6
MOST_ROWS = 200
"""Of the page."""


def waived(view: View) -> list[list[Case]]:
    """Findings that waivers of the inventory cover, those of one check and waiver together."""
    alike: dict[tuple[object, ...], list[Case]] = defaultdict(list)
    for one in view.hosts.values():
        for case in accepted(one):
            alike[case.check, case.waived].append(case)
    return sorted(alike.values(), key=lambda cases: (-len(cases), cases[0].check))


def leave(case: Case) -> str:
    """Who accepted it, why and how long."""
    by = case.waived
    return f"waived by {by.owner} until {by.until}: {by.reason}" if by is not None else ""


def waived_lines(view: View, width: int) -> Iterator[Line]:
    """Waived findings on a terminal, under a heading of their own."""
    every = waived(view)
    if not every:
        return
    count = sum(len(cases) for cases in every)
    yield "bold", f"{many(count, 'waived finding')}, shown and not counted:"
    for cases in every[:MOST_WAIVED]:
        text = f"{cases[0].verdict}: {where(cases)}: {cases[0].check}: {leave(cases[0])}"
        yield from wrapped("yellow", text, width, "  ", 2)
        yield from wrapped("dim", reading(cases[0]), width, "    ", 2)
    if len(every) > MOST_WAIVED:
        yield "dim", f"  and {many(len(every) - MOST_WAIVED, 'more kind')} of them"
    yield "", ""


def information(view: View) -> list[tuple[str, list[str]]]:
    """Lines that are worth reading and no finding, with their hosts; the most common first."""
    alike: dict[str, list[str]] = defaultdict(list)
    for result in view.results:
        for line in result.information:
            alike[line].append(result.host)
    return sorted(alike.items(), key=lambda row: -len(row[1]))


def information_lines(view: View, width: int) -> Iterator[Line]:
    """The same on a terminal."""
    every = information(view)
    for text, hosts in every[:MOST_TOLD]:
        place = "all" if len(hosts) == len(view.hosts) > 1 else cut(fold(hosts), 30)
        yield from wrapped("dim", f"told: {place}: {text}", width, "", 2)
    if len(every) > MOST_TOLD:
        more = many(len(every) - MOST_TOLD, "more line")
        yield "dim", f"and {more}: gpufleet explain HOST, or the page"


def waived_section(view: View) -> Html | None:
    """Waived findings on the page."""
    rows = [
        tag(
            "tr",
            tag("td", tag("code", cases[0].check)),
            tag("td", where(cases)),
            tag("td", f"{cases[0].verdict}: {reading(cases[0])}"),
            tag("td", leave(cases[0])),
        )
        for cases in waived(view)[:MOST_ROWS]
    ]
    if not rows:
        return None
    head = tag("tr", [tag("th", name) for name in ("check", "where", "found", "by whom")])
    table = tag("table", tag("thead", head), tag("tbody", rows))
    title = tag("h2", "Waived: shown, and not counted")
    return tag("section", title, tag("div", table, class_="wide"), id="waived")


def information_section(view: View) -> Html | None:
    """Information on the page."""
    rows = [
        tag("tr", tag("td", fold(hosts)), tag("td", text))
        for text, hosts in information(view)[:MOST_ROWS]
    ]
    if not rows:
        return None
    summary = tag(
        "summary",
        tag("h2", "Worth reading"),
        tag("span", many(len(rows), "line"), class_="soft"),
    )
    table = tag("table", tag("tbody", rows))
    return tag("details", summary, tag("div", table, class_="wide"), class_="more")
