"""What each baseline says of one figure, and what they come to together. Pure.

Physics bounds a figure loosely, neighbours and history closely. So a figure is
- no measurement at all when it is above what the hardware can do: not-run;
- too slow for sure when it is below the floor of its model: fail;
- too slow when neighbours or its own past say so and the other of the two does not contradict:
  fail. Where they contradict it is degraded: slower than its neighbours and as fast as ever, or
  slower than ever and as fast as its neighbours, is worth a look and no proof of a broken part;
- degraded when it is faster than its neighbours by as much: another clock, or another part;
- not looked at when its neighbours differ too much for any middle, and its past does not speak for
  it: half of a fleet that is slow has no majority to tell it from the other half;
- degraded when it lost speed together with an upgrade: the software's difference stands beside it.
A floor that a figure keeps contradicts nobody: it is far below what neighbours reach.
"""

from dataclasses import dataclass
from typing import Literal

from verify.judging.figure import COLLECTIVES, COMPUTE, MEMORY, TRAINING, Figure
from verify.judging.history import History, key
from verify.judging.neighbours import Spread
from verify.judging.physics import BEYOND, Bounds

Word = Literal["fine", "low", "high", "impossible", "lost", "unclear"]
ALIKE = (COMPUTE, MEMORY, COLLECTIVES, TRAINING)
"""Claims whose figures are alike on equal parts; links differ by their place on the board."""


@dataclass(frozen=True)
class Opinion:
    """What one baseline says."""

    baseline: Literal["physics", "neighbours", "history"]
    word: Word
    expected: str
    """What it would have: "at least 593 TFLOPS"."""
    why: str
    """What it says in full, without its own name."""
    limit: float = 0.0
    """The figure in `expected`; 0 where there is none."""

    @property
    def line(self) -> str:
        """For a reader, beside another baseline's finding."""
        return f"{self.baseline}: {self.why}"


@dataclass(frozen=True)
class Judged:
    """What all baselines say of a figure together."""

    figure: Figure
    verdict: Literal["pass", "degraded", "not-run", "fail"]
    leading: Opinion
    others: tuple[Opinion, ...]


def by_physics(figure: Figure, bounds: Bounds) -> Opinion | None:
    """Above what is possible, below the floor, or between them."""
    most, least = bounds.most, bounds.least
    if most is not None and figure.value > most * BEYOND:
        expected = f"at most {figure.amount(most)}"
        why = f"impossible: {bounds.most_by} gives {figure.amount(most)}"
        return Opinion("physics", "impossible", expected, why, most)
    if least is not None:
        expected = f"at least {figure.amount(least)}"
        if figure.value < least:
            why = f"too slow: {expected} ({bounds.least_by})"
            return Opinion("physics", "low", expected, why, least)
        return Opinion("physics", "fine", expected, f"fine (>= {figure.amount(least)})", least)
    return None


def by_neighbours(figure: Figure, spread: Spread | None, whose: str = "") -> Opinion | None:
    """Beside equal parts; `whose` says where they are when not in the whole fleet."""
    if spread is None:
        return None
    if spread.wide:
        ends = f"{figure.amount(spread.low)} to {figure.amount(spread.high)}"
        why = f"the {spread.count}{whose} differ too much to judge by: {ends}"
        word: Word = "unclear" if figure.claim in ALIKE else "fine"
        return Opinion("neighbours", word, "figures that agree", why) if word != "fine" else None
    off, margin = spread.off(figure.value), spread.margin
    least, most = spread.middle * (1 - margin), spread.middle * (1 + margin)
    expected = f"at least {figure.amount(least)}"
    middle = f"the median of {spread.count}{whose} ({figure.amount(spread.middle)})"
    why = f"{off:+.0%} of {middle}"
    if off < -margin:
        return Opinion("neighbours", "low", expected, why, least)
    if off > margin:
        return Opinion("neighbours", "high", f"at most {figure.amount(most)}", why, most)
    return Opinion("neighbours", "fine", expected, f"fine ({why})", least)


def by_history(figure: Figure, history: History | None, margin: float) -> Opinion | None:
    """Beside the host's own last good run; faster than ever is no finding."""
    before = history.values.get(key(figure)) if history else None
    if history is None or before is None:
        return None
    off = figure.value / before - 1
    least = before * (1 - margin)
    expected = f"at least {figure.amount(least)}"
    why = f"{off:+.0%} of {figure.amount(before)} on {history.day}"
    if off >= -margin:
        return Opinion("history", "fine", expected, f"fine ({why})", least)
    if history.same:
        return Opinion("history", "low", expected, why, least)
    return Opinion("history", "lost", expected, f"{history.software}: {why}", least)


def together(figure: Figure, opinions: list[Opinion]) -> Judged | None:
    """All baselines of one figure; None without any."""
    if not opinions:
        return None
    words = {one.baseline: one.word for one in opinions}
    close = [words[name] for name in ("neighbours", "history") if name in words]

    def judged(verdict: Literal["pass", "degraded", "not-run", "fail"], *of: Word) -> Judged:
        leading = next(one for one in opinions if not of or one.word in of)
        others = tuple(one for one in opinions if one is not leading)
        return Judged(figure, verdict, leading, others)

    if "impossible" in words.values():
        return judged("not-run", "impossible")
    if words.get("physics") == "low":
        return judged("fail", "low")
    if "low" in close:
        return judged("degraded" if "fine" in close else "fail", "low")
    for word in ("lost", "high"):
        if word in close:
            return judged("degraded", word)
    if "unclear" in close and "fine" not in close:
        return judged("not-run", "unclear")
    return judged("pass", "fine")
