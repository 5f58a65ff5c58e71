"""What one host says of a training across hosts, read as hostile data. Pure.

Travels to the host: standard library only, Python 3.10. The payload is
verify/payload/train_nodes.py; what the documents of all hosts come to is judged on the controller.
"""

from __future__ import annotations

import math
from typing import Any

from verify import training
from verify.training import MODEL, RANK, Document

STAGES = (
    "start", "rendezvous", "collectives", "gradients", "transformer", "bandwidth", "leave",
)  # fmt: skip
PARTS = ("collectives", "gradients", "transformer", "bandwidth")
"""What a rank that has ended has done."""

_FIGURE = (float, int, type(None))
_TRAINED = {key: MODEL[key] for key in ("parameters", "loss", "digest", "replayed", "throughput")}
_OTHER = {"state", "stages?", "transformer", "cnn?", "libraries?", "rank"}
_RANK = {
    **{key: form for key, form in RANK.items() if key not in _OTHER},
    "rank": (int, type(None)),
    "local": int,
    "stages?": {str: float},
    "transformer?": _TRAINED,
    "bandwidth?": [{"bytes": int, "seconds": float, "bus_gbs": float}],
}
_FORM = {
    "schema": int,
    "host": str,
    "id": str,
    "nodes": int,
    "device": str,
    "limit_s": float,
    "seconds": float,
    "perturbed": str,
    "network": {"address": str, "interface": str, "error": str},
    "agent": {"code": (int, type(None)), "error": str, "stderr": str},
    "run": (
        {
            "user": str,
            "torch": str,
            "backend": str,
            "world": int,
            "choices": int,
            "entropy": float,
            "deviation": float,
        },
        {},
    ),
    "nccl": [str],
    "ranks": [_RANK],
}


def read(said: Document, asked: Document) -> Document:
    """The document in what within.py says of the payload, which was asked with this rendezvous.

    Raises Unusable with the reason.
    """
    return whole(training.told(said), asked)


def parse(text: str, asked: Document) -> Document:
    """The same of the document's text, as a host hands it on. Raises Unusable."""
    return whole(training.parsed(text), asked)


def whole(found: Document, asked: Document) -> Document:
    """The document, its form checked and what cannot be. Raises Unusable."""
    training.refuse(training.faults(found, _FORM) or _contradictions(found, asked))
    return found


def _contradictions(found: Document, asked: Document) -> list[str]:
    wrong = []
    for key in ("id", "nodes"):
        if found[key] != asked[key]:
            wrong.append(f"it is of another run: {key} is {found[key]!r:.60}")
    if [one["local"] for one in found["ranks"]] != list(range(asked["ranks"])):
        wrong.append(f"it tells of other ranks than the {asked['ranks']} that were asked")
    for one in found["ranks"]:
        name = f"rank {one['local']} of the host"
        if one["stage"] not in STAGES:
            wrong.append(f"{name} is in a stage that nobody knows")
        if one["ended"] and not all(part in one for part in PARTS):
            wrong.append(f"{name} has ended without having done everything")
        if one["ended"] and (one["device"] is None or one["rank"] is None or not found["run"]):
            wrong.append(f"{name} has ended on no device, or as nobody")
        for figure in one.get("bandwidth", ()):
            if figure["bytes"] <= 0 or not 0 < figure["bus_gbs"] < math.inf:
                wrong.append(f"{name} tells a bandwidth that cannot be")
    return wrong


def command(python: str, bundle: str, rendezvous: dict[str, Any], device: str) -> list[str]:
    """What starts this host's part."""
    words = [python, "-B", f"{bundle}/verify/payload/train_nodes.py", f"--device={device}"]
    for name in ("nodes", "ranks", "endpoint", "id", "limit", "patience"):
        words.append(f"--{name}={rendezvous[name]}")
    return [*words, *(["--serve"] if rendezvous["serve"] else [])]
