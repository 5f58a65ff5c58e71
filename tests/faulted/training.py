"""Rows of the training proof: one rank of two on the CPU does something wrong."""

from __future__ import annotations

from tests.faulted.row import L40S, Row

ROWS = [
    Row("train.starts", "session-denied", L40S, 9, ("host",), level="standard"),
    Row("train.limits", "limit:as=8000000", L40S, 10, ("host",), level="standard"),
    Row("train.ended", "train:die:1", L40S, 1, ("rank 1",), level="standard"),
    Row("train.ended", "train:hang:1", L40S, 2, ("rank 1",), "hung", level="standard"),
    Row("train.ended", "train:raise:1", L40S, 3, ("rank 1",), level="standard"),
    Row("train.collectives", "train:collective:1", L40S, 4, ("rank 1",), level="standard"),
    Row(
        "train.collectives",
        "train:contribution:1:collectives",
        L40S,
        5,
        ("rank 1",),
        level="standard",
    ),
    Row("train.gradients", "train:gradient:1", L40S, 6, ("rank 1",), level="standard"),
    Row("train.parameters", "train:parameter:1", L40S, 7, ("rank 1",), level="standard"),
    Row("train.loss", "train:loss:1:transformer", L40S, 8, ("rank 1",), level="standard"),
]
