"""A host's figures beside those of its last good run, and what changed in its software. Pure."""

from collections import defaultdict
from dataclasses import dataclass
from statistics import median

from verify.judging.figure import Figure, figures_of
from verify.results import HostResult, Past

MOST_CHANGES = 6
MOST_TEXT = 1000


@dataclass(frozen=True)
class History:
    """The last good run of a host, ready to compare with."""

    past: Past
    values: dict[tuple[str, str, tuple[tuple[str, str], ...], str], float]
    changes: tuple[str, ...]
    """What of the software is another than then: "driver 550.54 -> 580.95"."""

    @property
    def day(self) -> str:
        return self.past.time[:10]

    @property
    def same(self) -> bool:
        """It ran the same stack: nothing but the hardware can have changed a figure."""
        return not self.changes

    @property
    def software(self) -> str:
        """The difference in words, "" on the same stack."""
        more = len(self.changes) - MOST_CHANGES
        return ", ".join(self.changes[:MOST_CHANGES]) + (f" and {more} more" if more > 0 else "")


def history_of(result: HostResult) -> History | None:
    """What the host kept, None when it kept nothing that can be used."""
    past = result.past
    if past is None:
        return None
    then = result.model_copy(update={"measurements": past.measurements})
    # Figures of conditions that a driver's version is part of would never meet again: `torch` as
    # a condition is told by the software's difference.
    values = {key(figure): figure.value for figure in figures_of(then)[0]}
    return History(past, values, changed(past.software, result.software))


def key(figure: Figure) -> tuple[str, str, tuple[tuple[str, str], ...], str]:
    """What tells a figure from the others of its host, whatever software it ran."""
    name, unit, conditions, where = figure.own
    return name, unit, tuple(one for one in conditions if one[0] != "torch"), where


def changed(then: dict[str, str], now: dict[str, str]) -> tuple[str, ...]:
    """Software that is another now, known then and now; what one run did not tell is no change."""
    return tuple(
        f"{name} {then[name]} -> {now[name]}"
        for name in sorted(then.keys() & now.keys())
        if then[name] != now[name]
    )


def comparison(result: HostResult, history: History) -> str:
    """Every kind of figure beside that of the last good run in one line, "" without any: the middle
    of a kind, and its worst where that is another."""
    kinds: dict[str, list[float]] = defaultdict(list)
    for figure in figures_of(result)[0]:
        before = history.values.get(key(figure))
        if before is not None:
            kinds[figure.name].append(figure.value / before - 1)
    if not kinds:
        return ""
    told = []
    for name, parts in sorted(kinds.items()):
        middle, worst = f"{median(parts):+.1%}", f"{min(parts):+.1%}"
        told.append(f"{name} {middle}" + (f" (worst {worst})" if worst != middle else ""))
    software = history.software or "same software"
    return f"beside its last good run of {history.day} ({software}): {', '.join(told)}"[:MOST_TEXT]
