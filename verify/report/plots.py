"""Measurements as inline SVG: every figure is a dot, so that the spread is seen. Pure.

Positions are percentages, so that a plot is as wide as the page and its dots stay round.
"""

import math
from collections import defaultdict
from dataclasses import dataclass

from verify.report.groups import part_name
from verify.report.markup import Html, tag
from verify.report.signoff import second
from verify.report.view import View, many
from verify.results import Measurement

MOST_PLOTS = 24
MOST_STRIPS = 24
"""Hosts with a strip of their own; more of them stand side by side in one plot."""
HEIGHT = 180
"""Pixels of a plot with many hosts."""
TOP = 16
"""Where the highest value is, below its figure."""
MOST_DOTS = 2000
"""Of one plot; with more of them each host is a line from its lowest to its highest figure."""
EDGE = 2.0
"""Per cent of the width that stays free at both ends."""


@dataclass(frozen=True)
class Plot:
    """One kind of figure over the fleet."""

    name: str
    unit: str
    conditions: tuple[tuple[str, str], ...]
    hosts: dict[str, list[Measurement]]


def plots(view: View) -> list[Plot]:
    """Figures of one name, unit and conditions together, in the order of first sight."""
    kinds: dict[tuple[str, str, tuple[tuple[str, str], ...]], dict[str, list[Measurement]]] = {}
    for result in view.results:
        for one in result.measurements:
            if second(one) is not None:
                continue  # a point of a curve: signoff.py draws it
            key = (one.name, one.unit, tuple(sorted(one.conditions.items())))
            kinds.setdefault(key, defaultdict(list))[result.host].append(one)
    return [Plot(*key, dict(hosts)) for key, hosts in kinds.items()]


def drawn(plot: Plot) -> Html:
    """The plot with its title, range and dots."""
    values = [one.value for each in plot.hosts.values() for one in each]
    low, high = min(values), max(values)
    spread = f", spread {100 * (high - low) / abs(high):.1f} %" if high and low != high else ""
    shape = _strips if len(plot.hosts) <= MOST_STRIPS else _columns
    under = ", ".join(f"{key} {value}" for key, value in plot.conditions)
    # A tenth of the value at least: the spread is seen, and small differences stay small.
    margin = max(0.0, 0.1 * max(abs(low), abs(high)) - (high - low)) / 2
    return tag(
        "figure",
        tag(
            "figcaption",
            tag("b", plot.name),
            f" in {plot.unit}" if plot.unit else "",
            tag(
                "span",
                f"{_short(low)} to {_short(high)}{spread}",
                class_="range",
                title=many(len(values), "figure"),
            ),
            tag("span", under, class_="soft under") if under else None,
        ),
        shape(plot, low - margin, high + margin),
    )


def _strips(plot: Plot, low: float, high: float) -> Html:
    """A strip per host, the value to the right."""
    rows = []
    for host, each in plot.hosts.items():
        dots = [
            tag(
                "circle",
                tag("title", _title(host, one)),
                cx=f"{_at(one.value, low, high):.2f}%",
                cy="9",
                r="3.5",
                class_="dot",
            )
            for one in each
        ]
        axis = tag("line", x1="0", x2="100%", y1="9", y2="9", class_="axis")
        middle = sum(one.value for one in each) / len(each)
        rows.append(
            tag(
                "div",
                tag("span", host, class_="at"),
                tag("svg", axis, dots, width="100%", height="18", role="img"),
                tag("span", _short(middle), class_="mean"),
                class_="strip",
            )
        )
    ends = tag("div", tag("span", _short(low)), tag("span", _short(high)), class_="ends")
    return tag("div", rows, ends, class_="strips")


def _columns(plot: Plot, low: float, high: float) -> Html:
    """Many hosts side by side, the value upwards; the lowest and the highest are named."""
    hosts = list(plot.hosts.items())
    crowded = sum(len(each) for _, each in hosts) > MOST_DOTS
    dots = []
    for number, (host, each) in enumerate(hosts):
        x = f"{_at(number, 0, len(hosts) - 1):.2f}%"
        if crowded:
            least, most = min(each, key=_value), max(each, key=_value)
            title = tag("title", f"{_title(host, least)}, {_title(host, most)}")
            span = {"y1": _height(least.value, low, high), "y2": _height(most.value, low, high)}
            dots.append(tag("line", title, x1=x, x2=x, **span, class_="span"))
            continue
        for one in each:
            title = tag("title", _title(host, one))
            y = _height(one.value, low, high)
            dots.append(tag("circle", title, cx=x, cy=y, r="2", class_="dot"))
    lines = [
        [
            tag("line", x1="0", x2="100%", y1=y, y2=y, class_="axis"),
            tag("text", _short(value), x="0", y=y - 4, class_="tick"),
        ]
        for y, value in ((TOP, high), (HEIGHT - 2, low))
    ]
    every = [(one.value, host, one) for host, each in hosts for one in each]
    last, first = (pick(every, key=lambda each: each[0]) for pick in (min, max))
    said = f"lowest {_title(*last[1:])}; highest {_title(*first[1:])}"
    return tag(
        "div",
        tag("svg", lines, dots, width="100%", height=HEIGHT, role="img"),
        tag("div", tag("span", hosts[0][0]), tag("span", hosts[-1][0]), class_="ends"),
        tag("p", said, class_="soft"),
        class_="columns",
    )


def _value(one: Measurement) -> float:
    return one.value


def _height(value: float, low: float, high: float) -> str:
    return f"{HEIGHT - 2 - (HEIGHT - 2 - TOP) * _part(value, low, high):.1f}"


def _title(host: str, one: Measurement) -> str:
    where = part_name(one.component)
    return f"{host}{' ' if where else ''}{where}: {_short(one.value)} {one.unit}"


def _at(value: float, low: float, high: float) -> float:
    return EDGE + (100 - 2 * EDGE) * _part(value, low, high)


def _part(value: float, low: float, high: float) -> float:
    return (value - low) / (high - low) if high > low else 0.5


def _short(value: float) -> str:
    """Four digits that matter, thousands apart."""
    if value and abs(value) < 0.001:
        return f"{value:.3g}"
    digits = max(0, 3 - math.floor(math.log10(abs(value)))) if value else 0
    said = f"{value:,.{min(digits, 6)}f}"
    return said.rstrip("0").rstrip(".") if "." in said else said
