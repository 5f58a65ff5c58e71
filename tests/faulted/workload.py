"""Rows of the checks of training workloads. Two are for GPUs alone (host-copy, data-parallel): no
simulated node has one that computes, and tests/test_workloads.py asks them of documents."""

from __future__ import annotations

from tests.faulted.row import L40S, Row

WRONG = {
    "linear": "state",
    "mlp": "labels",
    "cnn-mnist": "flatten",
    "cnn-mnist-2": "scores",
    "cnn-cifar": "labels",
    "lstm": "axis",
    "transformer": "labels",
    "finetune": "thaw",
    "batch-norm": "mode",
    "amp": "overflow",
    "compile": "output",
    "quantise": "output",
    "prune": "mask",
    "checkpoint": "optimizer",
    "ddp": "parameter",
    "fsdp2": "parameter",
}
ROWS = [
    Row(f"workload.{name}", f"workload:{name}:{kind}", L40S, 1, ("rank",), level="workload")
    for name, kind in WRONG.items()
]
