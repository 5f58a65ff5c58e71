"""Documents of the training proof for tests: eight GPUs, or two ranks on the CPU, all well."""

from __future__ import annotations

import json
from typing import Any

from verify import training
from verify.test_training import COLLECTIVES, TYPES

Document = dict[str, Any]


def model(unit: str, digest: str) -> Document:
    """What a rank tells of one model."""
    return {
        "parameters": 1000,
        "gradient": {
            "relative": 2e-7, "norm": 1.0, "worst": "head.weight", "sums": [64, 512], "ranks": 8,
        },
        "loss": {"first": 3.5, "last": 1.2 if unit == "tokens" else 0.01, "samples": 2560},
        "digest": digest,
        "replayed": digest,
        "throughput": {
            "unit": unit, "together": 1000.0, "alone": 2000.0, "warm_up_steps": 15, "steps": 60,
        },
    }  # fmt: skip


def rank(number: int, gpu: Document | None) -> Document:
    """A rank that has ended; `gpu` as NVML tells it, None on the CPU."""
    device = {"kind": "cpu", "index": None, "uuid": "", "name": "cpu"}
    if gpu is not None:
        device = {"kind": "cuda", "index": number, "uuid": gpu["uuid"], "name": gpu["name"]}
    home = "/opt/gpufleet/envs/0123456789ab/lib/python3.11/site-packages/nvidia"
    names = ("libcudnn.so.9", "libnccl.so.2", "libcublas.so.13", "libcudart.so.13")
    return {
        "rank": number,
        "pid": 1000 + number,
        "state": "ended",
        "stage": "leave",
        "at": "leaves the process group",
        "steps": 1600,
        "inside": True,
        "calls": 546,
        "collective": "",
        "sequence": None,
        "stack": [],
        "ended": True,
        "gone": True,
        "abandoned": False,
        "code": 0,
        "error": "",
        "others": False,
        "stderr": "",
        "device": device,
        "stages": dict.fromkeys(training.STAGES, 1.5),
        "collectives": {
            "compared": {f"{one} {dtype}": 1000 for one in COLLECTIVES for dtype in TYPES},
            "left_out": {},
            "wrong_elements": 0,
            "wrong": [],
        },
        "gradients": {
            "compared": 258048, "sent_wrong": 0, "received_wrong": 0, "first": "",
            "reference": "e9b2", "largest": 2**22, "exact_below": 2**24,
        },
        "transformer": model("tokens", "bde9"),
        "cnn": model("images", "a76f"),
        "libraries": {name: f"{home}/{name}" for name in names} if gpu else {},
    }  # fmt: skip


def trained(gpus: list[Document]) -> Document:
    """A run on these GPUs; on two ranks of the CPU without any."""
    ranks = [rank(number, gpu) for number, gpu in enumerate(gpus)] or [rank(0, None), rank(1, None)]
    return {
        "schema": 1,
        "launcher": "own",
        "host": "gpu001",
        "world": len(ranks),
        "asked_device": "cuda" if gpus else "cpu",
        "limit_s": 90.0,
        "seconds": 21.0,
        "perturbed": "",
        "run": {
            "user": "alice",
            "torch": "2.13.0+cu130" if gpus else "2.13.0+cpu",
            "cuda": "13.0" if gpus else None,
            "backend": "nccl" if gpus else "gloo",
            "device": "cuda" if gpus else "cpu",
            "seed": 1,
            "epsilon": 2.0**-23,
            "tasks": {
                "transformer": {"choices": 32, "entropy": 1.157, "deviation": 1.9},
                "cnn": {"choices": 8, "entropy": 0.0, "deviation": 0.0},
            },
        },
        "ranks": ranks,
    }


def stopped(of: Document, stage: str, **changes: Any) -> None:
    """Make a rank one that did not get beyond a stage."""
    for name in training.STAGES[training.STAGES.index(stage) :]:
        of.pop(name, None)
    of.update(ended=False, stage=stage, at="begins", inside=False)
    of.update(changes)


def said(document: Document | str, **changes: Any) -> Document:
    """What within.py says of a payload that printed this document, or this text."""
    out = document if isinstance(document, str) else f"GPUFLEET {json.dumps(document)}\n"
    values = {"rc": 0, "hung": False, "abandoned": False, "seconds": 21.0, "err": "", "stage": ""}
    return {"schema": 1, "out": out, **values, **changes}
