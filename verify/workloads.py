"""What a workload answered, read as hostile data, and what may be concluded from it. Pure.

Travels to the host: standard library only, Python 3.10. The payload measures
(verify/payload/workloads.py); the bounds are in verify/workload_bounds.py.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from verify import training
from verify.training import Document, faults
from verify.workload_bounds import ALIKE, CLAIMS, Figures, Held, on_device, same

EACH, TOGETHER, ONE = "each", "together", "one"
WORKLOADS = {name: EACH for name in CLAIMS} | {
    "data-parallel": ONE, "ddp": TOGETHER, "fsdp2": TOGETHER,
}  # fmt: skip
"""Name -> how it uses several GPUs: each by itself, all together, one process for all of them."""
STATES = ("ended", "absent", "raised", "died", "hung", "lost")
_FIGURE = (float, int, str, bool, type(None))
_FORM = {
    "schema": int,
    "workload": str,
    "device": str,
    "limit_s": float,
    "seconds": float,
    "perturbed": str,
    "ranks": [
        {
            "rank": int,
            "state": str,
            "stage": str,
            "ended": bool,
            "absent": str,
            "code": (int, type(None)),
            "error": str,
            "failed_at": (float, type(None)),
            "stderr": str,
            "device": (
                {"kind": str, "index": (int, type(None)), "uuid": str, "name": str},
                type(None),
            ),
            "run": (
                {"user": str, "torch": str, "cuda": (str, type(None)), "device": str,
                 "epsilon": float},
                {},
            ),
            "figures": {str: (*_FIGURE, [_FIGURE])},
        }
    ],
}  # fmt: skip


def ranks_of(name: str, gpus: int) -> int:
    """How many processes a workload gets on a host with that many GPUs; 0 is the CPU."""
    if WORKLOADS[name] == ONE:
        return 1
    return gpus or (2 if WORKLOADS[name] == TOGETHER else 1)


def read(said: Document, name: str, ranks: int) -> Document:
    """The document in what within.py says of the payload. Raises Unusable with the reason."""
    found = training.told(said)
    training.refuse(faults(found, _FORM) or _contradictions(found, name, ranks))
    return found


def _contradictions(found: Document, name: str, ranks: int) -> list[str]:
    """What is of the form and cannot be."""
    wrong = []
    if found["workload"] != name:
        wrong.append(f"it is of workload {found['workload']} and not of {name}")
    if [one["rank"] for one in found["ranks"]] != list(range(ranks)):
        wrong.append(f"it does not tell of the {ranks} ranks that were asked")
    for one in found["ranks"]:
        if one["state"] not in STATES:
            wrong.append(f"rank {one['rank']} is in a state that nobody knows")
        if (one["state"] in ("ended", "absent")) != one["ended"]:
            wrong.append(f"rank {one['rank']} has ended and has not")
        if (one["state"] == "absent") != bool(one["absent"]):
            wrong.append(f"rank {one['rank']} lacks something and does not")
        if one["state"] == "ended" and not (one["device"] and one["run"]):
            wrong.append(f"rank {one['rank']} has ended on no device")
    return wrong + training.lost_alone(found["ranks"])


def absent(document: Document) -> str:
    """Why the workload cannot be asked of this environment at all; "" when some rank ran it."""
    reasons = {one["absent"] for one in document["ranks"]}
    return "; ".join(sorted(reasons)) if all(reasons) else ""


def failure(rank: Document) -> str:
    """How a rank failed, and where."""
    where = f"in stage {rank['stage']!r}"
    if rank["state"] == "died":
        return f"{training.death(rank)} {where}"
    if rank["state"] == "hung":
        return f"hung {where}"
    return f"{rank['error'] or 'an error'} {where}"


def evidence(rank: Document, document: Document) -> list[str]:
    """Lines that show how a rank failed, and how far it came: partial results."""
    lines = [line for line in rank["stderr"].splitlines() if line.strip()][-4:]
    had = [f"{key} {one}" for key, one in rank["figures"].items() if not isinstance(one, list)]
    if had:
        lines.append(f"measured before: {', '.join(had)}")
    return [*lines, *told(document)]


def told(document: Document) -> list[str]:
    """That tests did it."""
    perturbed = document["perturbed"]
    return [f"perturbed on purpose: {perturbed}"] if perturbed else []


def claims(name: str, rank: Document) -> Iterator[Held]:
    """What is claimed of an ended rank. Raises Lacking when it does not tell what it must."""
    figures = Figures(rank["figures"])
    if name == "linear":
        yield from on_device(figures, rank["device"]["kind"])
    yield from CLAIMS[name](figures)


def alike(name: str, document: Document) -> dict[int, Held]:
    """Of ranks that work together: whether each holds the same as the others."""
    key = ALIKE.get(name, "")
    ended = [one for one in document["ranks"] if one["state"] == "ended"]
    if not key or not ended:
        return {}
    digests = {one["rank"]: Figures(one["figures"]).text(key) for one in ended}
    odd = training.odd_ones(digests)
    what = f"{key} after training, beside the other ranks'"
    return {rank: same(what, "other" if rank in odd else "", "") for rank in digests}


def speed(rank: Document) -> float:
    """Steps per second; 0 when it tells none."""
    found = rank["figures"].get("steps_per_s")
    known = isinstance(found, int | float) and not isinstance(found, bool)
    return float(found) if known and math.isfinite(found) and found > 0 else 0.0
