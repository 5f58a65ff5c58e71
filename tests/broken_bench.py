"""Runs of the torch tier in which one thing is wrong, and what one check must find about it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tests.benched import stopped

Document = dict[str, Any]


@dataclass(frozen=True)
class Broken:
    """One change of a good document of eight GPUs, and the findings of one check."""

    id: str
    change: Callable[[Document], None]
    parts: tuple[int | None, ...]
    """Index of each component that is a cause; None for the host."""
    says: str
    verdict: str = "fail"
    action: str = "drain"


def set_in(path: str, value: object) -> Callable[[Document], None]:
    """One value, by keys joined with slashes."""

    def change(document: Document) -> None:
        where: Any = document
        *names, last = path.split("/")
        for name in names:
            where = where[int(name) if isinstance(where, list) else name]
        where[int(last) if isinstance(where, list) else last] = value

    return change


def died(document: Document) -> None:
    stopped(document["ranks"][1], "products", state="died", code=-9)
    for one in document["ranks"]:
        if one["rank"] != 1:
            stopped(one, "products", state="lost", code=4)


def hung(document: Document) -> None:
    died(document)
    document["ranks"][1].update(state="hung", code=None)


def through_memory(document: Document) -> None:
    """GPU 1 sends to GPU 2 by way of the host's memory."""
    lines = document["nccl"]["1"]
    document["nccl"]["1"] = [
        line.replace("P2P/CUMEM", "SHM/direct/direct") if "-> 2[2]" in line else line
        for line in lines
    ]


def in_rings(document: Document) -> None:
    """Multicast is not there, so that NCCL goes round in rings."""
    document["nccl"]["0"] = [
        line.replace("NVLS proto SIMPLE", "RING proto SIMPLE").replace(
            "support is", "support is not"
        )
        for line in document["nccl"]["0"]
    ]


def peer_wrong(source: int, target: int) -> Callable[[Document], None]:
    def change(document: Document) -> None:
        for rank in document["ranks"]:
            for pair in rank["peer"].get(str(source), []):
                if pair["to"] == target:
                    pair.update(wrong=5, checksum=False)

    return change


def both(*changes: Callable[[Document], None]) -> Callable[[Document], None]:
    def change(document: Document) -> None:
        for one in changes:
            one(document)

    return change


BROKEN = [
    Broken("bench.ended", died, (1,), "died of signal 9 in stage products"),
    Broken("bench.ended", hung, (1,), "hung in stage products", "hung"),
    Broken("bench.products", set_in("ranks/2/products/wrong/fp16", 1), (2,), "1"),
    Broken("bench.products", set_in("ranks/2/memory/wrong", 7), (2,), "7"),
    Broken("bench.copies", set_in("ranks/3/copies/wrong", 2), (3,), "2"),
    Broken("bench.copies", set_in("ranks/3/copies/checksum", False), (3,), "another one"),
    Broken("bench.peer", peer_wrong(4, 6), (4,), "5 of 300 words wrong"),
    # every copy that reaches GPU 6 is wrong: it is the receiver
    Broken("bench.peer", both(peer_wrong(4, 6), peer_wrong(1, 6)), (6,), "checksum on GPU 6"),
    Broken("bench.collectives", set_in("ranks/5/collectives/wrong", 9), (5,), "9"),
    Broken("bench.transport", through_memory, (1,), "SHM/direct/direct"),
    Broken("bench.transport", in_rings, (None,), "ring with simple", "degraded", "keep"),
    Broken("bench.deterministic", set_in("ranks/6/repeats/different", 1), (6,), "1"),
    Broken("bench.agrees", set_in("ranks/7/repeats/prints/training", "beef"), (7,), "other bits"),
    Broken("load.clocks", set_in("load/gpus/0/reasons", {"4": 3, "8": 2}), (0,),
           "hardware slowdown in 2"),
    Broken("load.clocks", set_in("load/gpus/0/reasons", {"64": 2}), (0,), "hardware thermal"),
    Broken("load.clocks", set_in("load/gpus/0/reasons", {"128": 2}), (0,), "power brake"),
    Broken("load.clocks", set_in("load/gpus/0/reasons", {"32": 2}), (0,), "software thermal",
           "degraded", "keep"),
    Broken("load.pcie", set_in("load/gpus/3/pcie/width", 8), (3,), "8", "degraded", "service"),
    Broken("load.pcie", set_in("load/gpus/3/pcie/gen", 4), (3,), "4", "degraded", "service"),
    Broken("load.counters", set_in("load/gpus/4/after/pcie_replays", 9), (4,), "6", "degraded",
           "service"),
    Broken("load.counters", set_in("load/gpus/4/after/ecc_uncorrected", 1), (4,), "1"),
    Broken("load.counters", set_in("load/gpus/4/after/nvlink_recovery", 2), (4,), "2", "fail",
           "service"),
]  # fmt: skip
