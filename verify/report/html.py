"""A verify run as one static HTML page: no script, no request, no other file.

It is readable in light and dark, on paper, at the width of a telephone, and without colours. All
text of hosts is escaped by verify/report/markup.py; the page's own policy forbids every request.
"""

from dataclasses import replace
from functools import cache
from pathlib import Path

from deploy.fleet.names import fold
from verify.report.advice import deed
from verify.report.besides import information_section, waived_section
from verify.report.cards import card
from verify.report.cells import MARK
from verify.report.fleet import grid, legend
from verify.report.groups import Group, groups
from verify.report.markup import Child, Html, document, join, style, tag
from verify.report.plots import MOST_PLOTS, drawn, plots
from verify.report.read import PAGE
from verify.report.signoff import section as sign_off
from verify.report.tables import checks, hosts, not_asked, run_facts
from verify.report.telling import where
from verify.report.view import EXCUSED, View, many, meaning, tally

POLICY = "default-src 'none'; style-src 'unsafe-inline'"
MOST_CARDS = 100
FEW_HOSTS = 16
"""A larger fleet pushes the findings off the screen: they are listed above it as well."""
MOST_LISTED = 8
MOST_OPEN = 8
"""Findings that are unfolded from the start."""


def write_page(view: View) -> View:
    """Put the page into the run directory, and say so in the view; where that cannot be written
    (a full disk) the view stays as it was."""
    place = Path(view.place) / PAGE
    try:
        place.write_text(page(view), encoding="utf-8")
    except OSError:
        return view
    return replace(view, page=str(place))


def page(view: View) -> str:
    """The whole page."""
    found = groups(view.hosts.values())
    anchors = {
        (host, group.check): f"f{number}"
        for number, group in reversed(list(enumerate(found[:MOST_CARDS], 1)))
        for host in group.hosts
    }
    head = join(
        [
            tag("meta", charset="utf-8"),
            tag("meta", name_="viewport", content="width=device-width, initial-scale=1"),
            tag("meta", http_equiv="Content-Security-Policy", content=POLICY),
            tag("meta", name_="color-scheme", content="light dark"),
            tag("title", f"{view.fleet}: {headline(view)}"),
            style(_sheet()),
        ]
    )
    body = [
        _header(view),
        _todo(found) if len(view.hosts) > FEW_HOSTS else None,
        _section("Fleet", [legend(), grid(view, anchors)], "fleet"),
        _findings(found, view),
        waived_section(view),
        _measured(view),
        sign_off(view),
        checks(view),
        information_section(view),
        not_asked(view),
        hosts(view),
        run_facts(view),
    ]
    return document(head, tag("main", body))


def headline(view: View) -> str:
    """The run in one short sentence."""
    total = len(view.hosts)
    count = tally(one.verdict for one in view.hosts.values())
    good, unasked = count.get("pass", 0), count.get("not-asked", 0)
    excused = sum(bool(one.excused) for one in view.hosts.values())
    if good == total:
        return f"all {many(total, 'host')} passed"
    if excused and good + excused == total:
        return f"all {many(good, 'host')} passed that should be there; {excused} {EXCUSED}"
    if good + unasked == total:
        return f"nothing that was asked applies to {unasked} of {many(total, 'host')}"
    return f"{total - good - unasked} of {many(total, 'host')} did not pass"


def _header(view: View) -> Html:
    count = tally(one.verdict for one in view.hosts.values())
    chips = [
        tag(
            "span",
            tag("i", MARK[verdict], class_=f"mark {verdict}"),
            tag("b", str(number)),
            verdict,
        )
        for verdict, number in count.items()
    ]
    facts = [f"level {view.level}", view.run.started[:16].replace("T", " ") + " UTC"]
    facts += [f"{view.seconds:.1f} s"] if view.seconds is not None else []
    simulated = None
    if view.simulated:
        where = "" if len(view.simulated) == len(view.hosts) else f" ({fold(view.simulated)})"
        simulated = tag(
            "p",
            tag("b", f"Simulated hardware{where}."),
            " Its GPUs do not exist: this page says nothing about real ones.",
            class_="simulated",
        )
    return tag(
        "header",
        tag("p", tag("b", "gpufleet verify"), f" {view.run.inventory}", class_="kicker"),
        tag("h1", tag("span", f"{view.fleet}: "), headline(view)),
        tag("p", chips, class_="chips"),
        tag("p", " · ".join([*facts, meaning(view.run)]), class_="soft"),
        simulated,
    )


def _todo(found: list[Group]) -> Html | None:
    """What to do in one line each, above a large fleet."""
    rows = [
        tag(
            "li",
            tag(
                "a",
                tag("span", deed(group), class_=f"deed {group.verdict}"),
                tag("code", group.check or "no result"),
                tag("span", where(group.cases), class_="where"),
                href=f"#f{number}",
            ),
        )
        for number, group in enumerate(found[:MOST_LISTED], 1)
    ]
    more = len(found) - MOST_LISTED
    if more > 0:
        rows.append(tag("li", tag("a", f"and {many(more, 'more finding')}", href="#findings")))
    return tag("ol", rows, class_="todo") if rows else None


def _findings(found: list[Group], view: View) -> Html | None:
    if not found:
        return None
    cards = [
        card(number, group, view, open=number <= MOST_OPEN)
        for number, group in enumerate(found[:MOST_CARDS], 1)
    ]
    more = len(found) - MOST_CARDS
    rest = tag("p", f"and {many(more, 'more finding')}, in the JSON") if more > 0 else None
    return _section("What to do, first things first", [cards, rest], "findings")


def _measured(view: View) -> Html | None:
    every = plots(view)
    if not every:
        return None
    more = len(every) - MOST_PLOTS
    rest = tag("p", f"and {many(more, 'more kind')} of figures, in the JSON") if more > 0 else None
    drawings = tag("div", [drawn(plot) for plot in every[:MOST_PLOTS]], class_="plots")
    return _section("Measured", [drawings, rest], "measured")


def _section(title: str, content: Child, id: str) -> Html:
    return tag("section", tag("h2", title), content, id=id)


@cache
def _sheet() -> str:
    return (Path(__file__).parent / "page.css").read_text(encoding="utf-8")
