"""One finding as a card of the HTML page. Pure."""

from collections.abc import Iterator

from deploy.fleet.names import fold
from verify.report.advice import again, deed, mend, todo
from verify.report.cells import MARK
from verify.report.groups import Case, Facet, Group, part_name
from verify.report.markup import Html, tag
from verify.report.telling import consequences, identity, reading, where
from verify.report.view import View, many

MOST_FACETS = 12
MOST_CASES = 16
"""Components with their identity in a table; more of them are folded to names."""


def card(number: int, group: Group, view: View, *, open: bool) -> Html:
    """A finding: what, where, what shows it, what to do."""
    title = tag(
        "summary",
        tag("i", MARK[group.verdict], class_=f"mark {group.verdict}"),
        tag("code", group.check or "no result"),
        tag("span", where(group.cases), class_="where"),
        tag("span", deed(group), class_=f"deed {group.verdict}"),
    )
    several = len(group.facets) > 1
    facets = [_facet(facet, several) for facet in group.facets[:MOST_FACETS]]
    more = len(group.facets) - MOST_FACETS
    if more > 0:
        facets.append(tag("p", f"and {many(more, 'other reading')}, in the JSON", class_="soft"))
    return tag(
        "details",
        title,
        tag(
            "div",
            tag("p", group.claim, class_="soft"),
            facets,
            [tag("p", said, class_="soft") for said in consequences(group)],
            tag("dl", _commands(group, view)),
            class_="told",
        ),
        class_=f"finding {group.verdict}",
        id=f"f{number}",
        open=open,
    )


def _facet(facet: Facet, several: bool) -> Html:
    cases = list(facet.cases)
    known = [case for case in cases if identity(case)]
    told = len(known) == len(cases) <= MOST_CASES
    return tag(
        "div",
        tag("p", reading(facet), class_="reading"),
        tag("div", _parts(known[:MOST_CASES]), class_="wide") if known else None,
        tag("p", where(cases), class_="soft") if several and not told else None,
        [tag("p", f"also by {line}", class_="soft") for line in cases[0].others],
        _evidence(cases),
        class_="facet",
    )


def _parts(cases: list[Case]) -> Html:
    """Which components, with what tells them from all others."""
    rows = []
    for case in cases:
        part = case.component
        serial = f"serial {part.serial}" if part.serial else ""
        rows.append(
            tag(
                "tr",
                tag("td", tag("b", case.host)),
                tag("td", tag("b", part_name(part))),
                [tag("td", text) for text in (part.name, part.uuid, serial, part.slot)],
            )
        )
    return tag("table", tag("tbody", rows), class_="parts")


def _evidence(cases: list[Case]) -> Html | None:
    """Lines that show it, once each, with the hosts when they differ."""
    shown: dict[tuple[str, ...], list[str]] = {}
    for case in cases:
        if case.evidence:
            shown.setdefault(case.evidence, []).append(case.host)
    if not shown:
        return None
    several = len(shown) > 1
    blocks = []
    for lines, hosts in list(shown.items())[:3]:
        said = [f"{fold(hosts)}:"] if several else []
        # Line by line: a newline inside a host's text does not make a line of its own.
        blocks.append(tag("pre", [tag("span", line) for line in [*said, *lines]]))
    return tag("div", blocks)


def _commands(group: Group, view: View) -> Iterator[Html]:
    yield tag("dt", "do")
    yield tag("dd", todo(group))
    command = mend(group, view.run.inventory)
    if command:
        yield tag("dt", "mend")
        yield tag("dd", tag("code", command))
    yield tag("dt", "again")
    retry = again(group.check, group.hosts, view.run.inventory, view.level, view.way)
    yield tag("dd", tag("code", retry))
