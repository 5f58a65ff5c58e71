"""A verify run as one static HTML page: no script, no request, no other file.

It is readable in light and dark, on paper, at the width of a telephone, and without colours. All
text of hosts is escaped by verify/report/markup.py; the page's own policy forbids every request.
"""

from collections import defaultdict
from dataclasses import replace
from functools import cache
from pathlib import Path

from deploy.fleet.names import fold
from verify.report.advice import deed
from verify.report.cards import card
from verify.report.cells import MARK
from verify.report.fleet import grid, legend
from verify.report.groups import Group, groups
from verify.report.markup import Child, Html, document, join, style, tag
from verify.report.plots import MOST_PLOTS, drawn, plots
from verify.report.read import PAGE
from verify.report.telling import where
from verify.report.unasked import unasked
from verify.report.view import View, many, meaning, tally
from verify.results import HostVerification

POLICY = "default-src 'none'; style-src 'unsafe-inline'"
MOST_CARDS = 100
FEW_HOSTS = 16
"""A larger fleet pushes the findings off the screen: they are listed above it as well."""
MOST_LISTED = 8
MOST_OPEN = 8
"""Findings that are unfolded from the start."""
VERDICTS = ("pass", "degraded", "not-run", "hung", "fail")


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
        _measured(view),
        _checks(view),
        _unasked(view),
        _hosts(view),
        _run(view),
    ]
    return document(head, tag("main", body))


def headline(view: View) -> str:
    """The run in one short sentence."""
    total = len(view.hosts)
    good = sum(one.verdict == "pass" for one in view.hosts.values())
    if good == total:
        return f"all {many(total, 'host')} passed"
    return f"{total - good} of {many(total, 'host')} did not pass"


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


def _checks(view: View) -> Html | None:
    """Every check that was asked, and how many hosts it held on."""
    claims: dict[str, str] = {}
    count: dict[str, dict[str, int]] = defaultdict(lambda: dict.fromkeys(VERDICTS, 0))
    for result in view.results:
        for check in result.checks:
            claims.setdefault(check.id, check.claim)
            count[check.id][check.verdict] += 1
    if not claims:
        return None
    rows = []
    for id, claim in claims.items():
        total = sum(count[id].values())
        bar = [
            tag("i", class_=f"bar {verdict}", style=f"width:{100 * number / total:.2f}%")
            for verdict, number in count[id].items()
            if number
        ]
        said = ", ".join(f"{n} {verdict}" for verdict, n in reversed(count[id].items()) if n)
        rows.append(
            tag(
                "tr",
                tag("td", tag("code", id)),
                tag("td", claim),
                tag("td", tag("span", bar, class_="bars"), said, class_="count"),
            )
        )
    table = tag("table", tag("tbody", rows), class_="checks")
    bad = sum(any(n for verdict, n in each.items() if verdict != "pass") for each in count.values())
    note = f"{len(claims)} asked, {len(claims) - bad} held wherever they were asked"
    return _folded("Checks", note, table)


def _unasked(view: View) -> Html | None:
    told = unasked(view)
    if not told:
        return None
    rows = [
        tag(
            "tr",
            tag("td", reason),
            tag("td", [[tag("code", id), " "] for id in checks]),
            tag("td", fold(hosts)),
        )
        for reason, checks, hosts in told
    ]
    head = tag("tr", [tag("th", name) for name in ("because", "checks", "hosts")])
    return _folded(
        "Not asked", many(len(told), "reason"), tag("table", tag("thead", head), tag("tbody", rows))
    )


def _hosts(view: View) -> Html:
    """What answered, hosts with the same facts on one row."""
    alike: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for one in view.hosts.values():
        alike[_facts(one)].append(one.host)
    rows = [
        tag("tr", tag("td", fold(hosts)), [tag("td", fact) for fact in facts])
        for facts, hosts in alike.items()
    ]
    names = ("hosts", "GPUs", "expected stack", "Python", "as user", "bundle", "notes")
    head = tag("tr", [tag("th", name) for name in names])
    kinds = many(len(alike), "kind")
    return _folded("Hosts", kinds, tag("table", tag("thead", head), tag("tbody", rows)))


def _facts(one: HostVerification) -> tuple[str, ...]:
    result = one.result
    if result is None:
        why = one.message.removeprefix(f"{one.host}: ")
        return (why, "", "", "", "", "; ".join(one.notes))
    count: dict[str, int] = defaultdict(int)
    for gpu in result.gpus:
        count[gpu.name] += 1
    return (
        ", ".join(f"{number}x {name}" for name, number in count.items()) or "none",
        f"{result.stack or 'none'} ({result.expected_from})",
        result.python,
        result.user,
        result.bundle[:12],
        "; ".join(one.notes),
    )


def _run(view: View) -> Html:
    run = view.run
    facts = {
        "run": run.id,
        "command": " ".join(run.command),
        "by": run.controller,
        "began": run.started,
        "ended": run.ended or "no end recorded",
        "exit": meaning(run),
        "inventory": run.inventory,
        "lock": run.lock or "none",
        "record": view.place,
    }
    rows = [tag("tr", tag("th", name), tag("td", fact)) for name, fact in facts.items()]
    return _folded("This run", run.id, tag("table", tag("tbody", rows), class_="facts"))


def _section(title: str, content: Child, id: str) -> Html:
    return tag("section", tag("h2", title), content, id=id)


def _folded(title: str, note: str, content: Html) -> Html:
    summary = tag("summary", tag("h2", title), tag("span", note, class_="soft"))
    return tag("details", summary, tag("div", content, class_="wide"), class_="more")


@cache
def _sheet() -> str:
    return (Path(__file__).parent / "page.css").read_text(encoding="utf-8")
