"""The fleet as a grid: one card per host, one cell per GPU. Pure."""

from collections.abc import Mapping

from deploy.fleet.names import fold
from verify.report.cells import MARK, UNASKED, Cell, cells
from verify.report.groups import Case, cases, part_name
from verify.report.markup import Html, tag
from verify.report.view import GOOD, View, many
from verify.results import HostVerification

SIZES = ((12, "roomy"), (60, "snug"), (400, "dense"))
"""Up to how many hosts which size of cells; more of them get the smallest."""
MOST_DRAWN = 2000
"""Of a larger fleet, hosts that passed are named and not drawn."""
WORDS = {UNASKED: "not asked", "not-run": "not looked at"}


def grid(view: View, anchors: Mapping[tuple[str, str], str]) -> Html:
    """Every host in the inventory's order: neighbours in the rack stay neighbours.

    `anchors` are the places of findings in the page, by host and check.
    """
    size = next((name for most, name in SIZES if len(view.hosts) <= most), "tiny")
    shown = list(view.hosts.values())
    rest = None
    if len(shown) > MOST_DRAWN:
        good = [one.host for one in shown if one.verdict in GOOD]
        shown = [one for one in shown if one.verdict not in GOOD]
        rest = tag("p", f"and {many(len(good), 'host')} without fault: {fold(good)}", class_="soft")
    cards = [_card(one, anchors) for one in shown[:MOST_DRAWN]]
    if len(shown) > MOST_DRAWN:
        more = many(len(shown) - MOST_DRAWN, "more host")
        rest = tag("div", tag("p", f"and {more} that did not pass", class_="soft"), rest)
    return tag("div", tag("div", cards, class_=f"grid {size}"), rest)


def legend() -> Html:
    """What the colours and signs mean."""
    return tag(
        "p",
        [
            tag(
                "span",
                tag("i", MARK[verdict], class_=f"gpu {verdict}"),
                WORDS.get(verdict, verdict),
            )
            for verdict in ("pass", "degraded", "fail", "hung", "not-run", UNASKED)
        ],
        class_="legend",
    )


def _card(one: HostVerification, anchors: Mapping[tuple[str, str], str]) -> Html:
    causes = cases(one)
    parts = cells(one)
    rest = [case for case in causes if not any(case.check in cell.checks for cell in parts)]
    reasons = [case.check for case in causes]
    name = tag("b", one.host)
    if causes:
        name = tag("a", name, href=_href(one.host, reasons, anchors))
    said = one.verdict if one.verdict == "unreachable" or not one.result else ""
    note = said or ", ".join(dict.fromkeys(case.check for case in rest))
    busy = tag("span", "busy", class_="busy") if one.result and one.result.busy else ""
    return tag(
        "div",
        tag(
            "div",
            tag("i", MARK[one.verdict], class_=f"mark {one.verdict}"),
            name,
            busy,
            class_="name",
        ),
        tag("div", [_gpu(one, cell, reasons, anchors) for cell in parts], class_="gpus")
        if parts
        else None,
        tag("div", note, class_="note") if note else None,
        class_=f"host {one.verdict}",
        data_host=one.host,
        data_verdict=one.verdict,
        title=_title(one, causes),
    )


def _gpu(
    one: HostVerification, cell: Cell, why: list[str], anchors: Mapping[tuple[str, str], str]
) -> Html:
    known = (cell.name, cell.uuid, cell.serial and f"serial {cell.serial}", cell.slot)
    word = WORDS.get(cell.verdict, cell.verdict)
    name = f"GPU {cell.label}" if cell.label else f"GPU at {cell.slot}"
    title = f"{one.host} {name}: {word}" + (f": {', '.join(cell.checks)}" if cell.checks else "")
    link = _href(one.host, [*cell.checks, *(why if cell.verdict == "not-run" else [])], anchors)
    return tag(
        "a" if link else "i",
        tag("b", MARK[cell.verdict]) if MARK[cell.verdict] else None,
        tag("span", cell.label),
        class_=f"gpu {cell.verdict}",
        href=link,
        data_host=one.host,
        data_gpu=cell.label or cell.slot,
        data_verdict=cell.verdict,
        aria_label=title,
        title=f"{title}; {', '.join(text for text in known if text)}",
    )


def _href(host: str, checks: list[str], anchors: Mapping[tuple[str, str], str]) -> str | None:
    return next((f"#{anchors[host, id]}" for id in checks if (host, id) in anchors), None)


def _title(one: HostVerification, causes: list[Case]) -> str:
    told = [f"{one.host}: {one.verdict}"]
    for case in causes[:5]:
        told.append(" ".join(word for word in (case.check, part_name(case.component)) if word))
    return "; ".join(told)
