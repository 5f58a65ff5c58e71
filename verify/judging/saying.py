"""Judged figures as findings: one per part, the worst figure first. Pure."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, cast

from verify.checks import ACTIONS, MOST_EVIDENCE, VERDICTS
from verify.judging.figure import PEER, of_gpu
from verify.judging.opinion import Judged
from verify.results import Action, Finding, Gpu, Part

MOST_OTHERS = 8
Verdict = Literal["degraded", "not-run", "hung", "fail"]


@dataclass(frozen=True)
class Confirmed:
    """A judged figure with what a second measurement made of it."""

    judged: Judged
    verdict: str
    note: str = ""
    """How the second measurement came out, "" when there was none to be made."""


def unconfirmed(judged: Judged) -> bool:
    """It is to be measured a second time before it counts."""
    return judged.verdict == "fail" or judged.leading.word == "impossible"


def confirm(judged: Judged, second: Judged | None, why_not: str) -> Confirmed:
    """A suspicion and its second measurement; without one nothing is known for sure."""
    if not unconfirmed(judged):
        return Confirmed(judged, judged.verdict)
    if second is None:
        return Confirmed(judged, "not-run", f"suspected, and not measured again: {why_not}")
    now = second.figure.amount()
    if second.verdict == judged.verdict:
        return Confirmed(judged, judged.verdict, f"measured again: {now}")
    return Confirmed(judged, "degraded", f"unstable: measured again {now}")


def findings(every: Iterable[Confirmed], gpus: tuple[Gpu, ...], action: str) -> list[Finding]:
    """What does not hold, once per component and verdict."""
    bad = [one for one in every if one.verdict != "pass"]
    blamed = _common(bad)
    alike: dict[tuple[Part, str], list[Confirmed]] = defaultdict(list)
    for one in bad:
        part = one.judged.figure.part
        if blamed is not None and part.kind == "gpu":
            part = _part(blamed, gpus) or part
        alike[part, one.verdict].append(one)
    made = [_finding(part, verdict, each, action) for (part, verdict), each in alike.items()]
    return sorted(made, key=lambda one: -VERDICTS.index(one.verdict))


def _finding(part: Part, verdict: str, each: list[Confirmed], action: str) -> Finding:
    worst = max(each, key=_how_bad)
    judged = worst.judged
    rest = [_line(one) for one in sorted(each, key=_how_bad, reverse=True) if one is not worst]
    if len(rest) > MOST_EVIDENCE - 1:
        rest = [*rest[: MOST_EVIDENCE - 2], f"and {len(rest) - MOST_EVIDENCE + 2} more figures"]
    others = [one.line for one in judged.others]
    if judged.leading.baseline == "neighbours" or judged.leading.word in ("lost", "impossible"):
        others.insert(0, judged.leading.line)
    note = [worst.note] if worst.note else []
    found = judged.figure.amount() + (f" ({worst.note})" if worst.note else "")
    return Finding(
        component=part,
        verdict=cast(Verdict, verdict),
        what=judged.figure.said(),
        found=found[:1000],
        expected=judged.leading.expected,
        action=cast(Action, action if verdict == "fail" else ACTIONS[0]),
        baseline=judged.leading.baseline,
        evidence=tuple(text[:400] for text in [*note, *rest][:MOST_EVIDENCE]),
        others=tuple(text[:400] for text in others[:MOST_OTHERS]),
    )


def _line(one: Confirmed) -> str:
    judged = one.judged
    note = f"; {one.note}" if one.note else ""
    return f"{judged.figure.said()}: {judged.figure.amount()}, {judged.leading.line}{note}"


def _how_bad(one: Confirmed) -> float:
    """The figure that is furthest from what was expected of it comes first."""
    limit = one.judged.leading.limit
    return abs(limit - one.judged.figure.value) / limit if limit else 0.0


def _common(bad: list[Confirmed]) -> str | None:
    """The one GPU that every bad pair has at one of its ends, as an index; None when there is none,
    or when it is both ends of a single pair."""
    pairs = [
        {str(one.judged.figure.part.index), one.judged.figure.conditions.get("to", "")}
        for one in bad
        if one.judged.figure.claim == PEER
    ]
    if len(pairs) < 3 or len(pairs) != len(bad):
        return None
    shared = set.intersection(*pairs)
    return shared.pop() if len(shared) == 1 else None


def _part(index: str, gpus: tuple[Gpu, ...]) -> Part | None:
    return next((of_gpu(gpu) for gpu in gpus if str(gpu.index) == index), None)
