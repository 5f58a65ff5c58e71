"""Documents of the workloads for tests: what one real run of each on the CPU gave, and by hand what
only GPUs can run."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

from verify.workloads import WORKLOADS, ranks_of

Document = dict[str, Any]
CAPTURED: dict[str, Document] = json.loads(
    (Path(__file__).parent / "data/workloads.json").read_text()
)
"""Workload -> the payload's document: torch 2.13.0+cpu, tests/data/workloads.json."""
ON_GPUS: dict[str, Document] = {
    "host-copy": {"wrong": 0, "copied": 20 * 2**20, "pinned": True, "steps_per_s": 50.0},
    "data-parallel": {
        "gpus": 8, "wrong_outputs": 0, "wrong_gradients": 0, "compared": 6144, "steps_per_s": 20.0,
    },
}  # fmt: skip
"""Figures that no CPU gives; of a GPU nobody has seen them."""


def worked(name: str, gpus: list[Document] | None = None) -> Document:
    """A good run of a workload; on these GPUs, or on the CPU without."""
    base = copy.deepcopy(CAPTURED.get(name) or CAPTURED["mlp"])
    base["workload"] = name
    if name in ON_GPUS:
        base["ranks"][0]["figures"] = dict(ON_GPUS[name])
    if gpus is None:
        return base
    first = base["ranks"][0]
    base["device"] = "cuda"
    base["ranks"] = []
    for number in range(ranks_of(name, len(gpus))):
        device = {"kind": "cuda", "index": number, "uuid": gpus[number]["uuid"],
                  "name": gpus[number]["name"]}  # fmt: skip
        figures = copy.deepcopy(first["figures"])
        if name == "linear":
            figures |= {"line_on": "cuda", "plane_on": "cuda"}
        if name == "fsdp2":
            figures |= {"world": len(gpus), "mine": figures["whole"] // len(gpus)}
        if name == "ddp":
            del figures["sync_absent"]
            figures |= {"world": len(gpus), "sync_apart": 1e-7, "sync_count": 128}
        run = {**first["run"], "device": "cuda", "cuda": "13.0"}
        base["ranks"].append(
            {**copy.deepcopy(first), "rank": number, "device": device, "run": run,
             "figures": figures}
        )  # fmt: skip
    return base


def stopped(rank: Document, state: str, **changes: Any) -> None:
    """Make a rank one that did not come to its end."""
    rank.update(state=state, ended=state == "absent", code=None, **changes)


def said(document: Document | str, **changes: Any) -> Document:
    """What within.py says of a payload that printed this document, or this text."""
    out = document if isinstance(document, str) else f"GPUFLEET {json.dumps(document)}\n"
    values = {"rc": 0, "hung": False, "abandoned": False, "seconds": 5.0, "err": "", "stage": ""}
    return {"schema": 1, "out": out, **values, "user": "", **changes}


NAMES = tuple(WORKLOADS)
