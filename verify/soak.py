"""What a soak answered, read as hostile data, and what may be concluded from it. Pure.

Travels to the host: standard library only, Python 3.10. The payload measures
(verify/payload/soak.py); what its figures are held against is here.
"""

from __future__ import annotations

from statistics import median
from typing import Any

from verify.training import Document, faults, refuse, told

STATES = ("ended", "stopped", "raised", "died", "hung", "lost", "running")
KINDS = {
    "walking-ones": 64, "walking-zeros": 64, "solid": 2, "checkerboard": 2, "address": 1,
    "random": 1, "moving-inversions": 2,
}  # fmt: skip
"""Kinds of patterns, and how many of each one whole round has."""
HARDWARE = {0x8: "hardware slowdown", 0x40: "hardware thermal slowdown", 0x80: "power brake"}
"""Why hardware itself holds clocks back (NVML, nvmlClocksEventReasons)."""
SOFTWARE = {0x20: "software thermal slowdown"}
"""The driver holds clocks back because it is too warm; at its own target that is no damage."""
START_S = 180.0
"""What the payload may take beside the soak itself (START_S and the stopping of its ranks)."""

_NUMBER = (float, int, type(None))
_RANK = {
    "rank": int,
    "state": str,
    "code": (int, type(None)),
    "abandoned": bool,
    "pid?": int,
    "stage?": str,
    "error?": str,
    "seconds?": float,
    "torch?": str,
    "device?": (
        {"kind": str, "index": (int, type(None)), "uuid": str, "name": str},
        type(None),
    ),
    "memory?": {
        "bytes": int, "rounds": int, "seconds": float, "patterns": {str: int},
        "wrong_words": int,
        "wrong": [{
            "pattern": str, "offset": int, "wrote": str, "read": str, "bits": str, "at_s": float,
        }],
    },
    "compute?": {
        "what": str, "products": int, "replays": int, "seconds": float, "digest": str,
        "wrong_products": int, "wrong_replays": int,
        "wrong": [{"what": str, "number": int, "elements": int, "at_s": float}],
        "rates": [[float]],
    },
}  # fmt: skip
_GPU = {
    "index": int, "uuid": str, "slowdown_c": _NUMBER, "power_limit_w": _NUMBER, "samples": int,
    "unread": int, "reasons": {str: int}, "hottest_c": _NUMBER, "most_w": _NUMBER,
    "curve": [[_NUMBER]],
}  # fmt: skip
_FORM = {
    "schema": int, "asked_s": float, "device": str, "why": str, "seconds": float,
    "perturbed": str, "user": str, "ranks": [_RANK],
    "samples": {"error": str, "every_s?": float, "gpus?": [_GPU]},
}  # fmt: skip


def read(said: Document, ranks: int) -> Document:
    """The document in what within.py says of the payload. Raises Unusable with the reason."""
    found = told(said)
    refuse(faults(found, _FORM) or _contradictions(found, ranks))
    return found


def _contradictions(found: Document, ranks: int) -> list[str]:
    """What is of the form and cannot be."""
    wrong = []
    if [one["rank"] for one in found["ranks"]] != list(range(ranks)):
        wrong.append(f"it does not tell of the {ranks} ranks that were asked")
    for one in found["ranks"]:
        name = f"rank {one['rank']}"
        if one["state"] not in STATES:
            wrong.append(f"{name} is in a state that nobody knows")
        parts = ("device", "memory", "compute", "seconds")
        if one["state"] == "ended" and not all(one.get(part) is not None for part in parts):
            wrong.append(f"{name} has ended without having done everything")
        if one["state"] == "ended" and one["seconds"] < 0.95 * found["asked_s"]:
            wrong.append(f"{name} has ended before its time")
        for part, counts in (("memory", ("wrong_words",)), ("compute", ("wrong_products",))):
            if any(one.get(part, {}).get(count, 0) < 0 for count in counts):
                wrong.append(f"{name} counts below nothing")
        if any(len(point) != 2 for point in one.get("compute", {}).get("rates", [])):
            wrong.append(f"{name} has a rate that is none")
    for gpu in found["samples"].get("gpus", []):
        if any(len(point) != 4 or point[0] is None for point in gpu["curve"]):
            wrong.append(f"GPU {gpu['index']} has a curve that is none")
    return wrong


def whole_rounds(memory: Document) -> int:
    """Rounds of the memory test that had every pattern; the payload's own count is not believed
    beyond its patterns."""
    times = [memory["patterns"].get(kind, 0) // most for kind, most in KINDS.items()]
    found: int = min(memory["rounds"], *times)
    return found


def sag(rates: list[list[float]]) -> tuple[float, float] | None:
    """Median rate in the first and in the last third of the time; None of fewer than 6 points.

    Thirds of the time, and medians within them: one slow moment is none of a card that gets
    slower, and a card that is hot from the first minute on is what bench.* and neighbours show.
    """
    if len(rates) < 6:
        return None
    begin, end = rates[0][0], rates[-1][0]
    third = (end - begin) / 3
    early = [rate for at, rate in rates if at <= begin + third]
    late = [rate for at, rate in rates if at >= end - third]
    return median(early), median(late)


def reasons(gpu: Document, known: dict[int, str]) -> list[str]:
    """Which of the known reasons held clocks back, and in how many of the samples."""
    found = []
    for bit, name in known.items():
        times = gpu["reasons"].get(f"{bit:x}", 0)
        if times > 0:
            found.append(f"{name} in {times} of {gpu['samples']} samples")
    return found


def picked(curve: list[list[Any]], most: int = 24) -> list[list[Any]]:
    """Points of a curve at equal distances, the first and the last among them."""
    if len(curve) <= most:
        return curve
    return [curve[round(at * (len(curve) - 1) / (most - 1))] for at in range(most)]
