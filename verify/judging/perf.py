"""Judges every host's figures by physics, by its equals in the fleet and by its own past. Pure."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache

from verify.judging.figure import Figure, figures_of
from verify.judging.figures import figures
from verify.judging.history import History, comparison, history_of
from verify.judging.neighbours import LEAST, Spread, spread
from verify.judging.opinion import (
    Judged,
    Opinion,
    by_history,
    by_neighbours,
    by_physics,
    together,
)
from verify.judging.physics import bounds
from verify.results import Finding, HostResult

Margin = Callable[[str, Figure], float]
"""margin(host, figure): the least deviation that counts, as a part; the inventory may set it."""


@dataclass
class HostFigures:
    """What became of one host's figures."""

    judged: list[Judged] = field(default_factory=list)
    unjudged: list[Figure] = field(default_factory=list)
    """No baseline speaks of them yet."""
    bad: list[tuple[str, Finding]] = field(default_factory=list)
    """Claims and findings of figures that say nothing."""
    history: History | None = None
    information: str = ""
    """How they are beside those of its last good run, "" without one."""


class FleetFigures:
    """All figures of a run, and the middle of every kind of them."""

    def __init__(self, results: Mapping[str, HostResult], margin: Margin) -> None:
        self.margin = margin
        self.hosts: dict[str, HostFigures] = {}
        self._values: dict[tuple[object, ...], list[float]] = defaultdict(list)
        self._hosts_with: dict[tuple[object, ...], set[str]] = defaultdict(set)
        self.spread = cache(self._spread)
        mine: dict[str, list[Figure]] = {}
        for name, result in results.items():
            seen, bad = figures_of(result)
            mine[name] = seen
            history = history_of(result)
            self.hosts[name] = HostFigures(bad=bad, history=history)
            if history is not None:
                self.hosts[name].information = comparison(result, history)
            for figure in seen:
                self._values[figure.key].append(figure.value)
                self._hosts_with[figure.key].add(name)
                if figure.gpu is not None:
                    self._values[(name, *figure.key)].append(figure.value)
        for name, seen in mine.items():
            for figure in seen:
                judged = self.judge(figure)
                if judged is None:
                    self.hosts[name].unjudged.append(figure)
                else:
                    self.hosts[name].judged.append(judged)

    def judge(self, figure: Figure) -> Judged | None:
        """What all baselines say of a figure, of this run or of a second one of the same host."""
        if figure.told_only:
            return None
        margin = self.margin(figure.host, figure)
        others = by_neighbours(figure, self.spread(figure.key, margin))
        if others is None or others.word == "fine":
            others = self._siblings(figure, margin) or others
        opinions: list[Opinion | None] = [
            by_physics(figure, bounds(figure, figures())),
            others,
            by_history(figure, self.hosts[figure.host].history, margin),
        ]
        return together(figure, [one for one in opinions if one is not None])

    def _siblings(self, figure: Figure, margin: float) -> Opinion | None:
        """The other GPUs of the host, where the fleet has more and they find something."""
        if figure.gpu is None or len(self._hosts_with[figure.key]) < 2:
            return None
        found = by_neighbours(
            figure, self.spread((figure.host, *figure.key), margin), " on this host"
        )
        return found if found is not None and found.word in ("low", "high") else None

    def _spread(self, key: tuple[object, ...], margin: float) -> Spread | None:
        return spread(self._values.get(key, ()), margin)

    def why_unjudged(self, figure: Figure) -> str:
        """Why no baseline speaks of a figure."""
        if figure.told_only:
            return figure.told_only
        count = len(self._values[figure.key])
        equals = f"the {count} equal figures of this run differ too much to judge by"
        if count < LEAST:
            equals = f"{count} of the {LEAST} equal figures that make a middle are here"
        return (
            f"no floor is known for {figure.name} on {figure.model}, {equals}, and no earlier good "
            "run is kept"
        )


def of_claim(claim: str, every: Iterable[Judged]) -> list[Judged]:
    """Those of one claim."""
    return [one for one in every if one.figure.claim == claim]
