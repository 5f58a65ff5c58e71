"""Fleets of H100 hosts with figures as they scatter on sound hardware, for tests of judging.

Every figure is drawn around what is published of the model (verify/judging/figures.toml names the
sources) with a standard deviation of 1.75 %: then the fastest and the slowest of eight GPUs are 5 %
apart on average, as on sound hosts (research: performance-reliability B.3.5).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from typing import Any

from tests.verified import H100, check, document, gpu
from verify.results import HostResult

SPREAD = 0.0175
PHYSICS = {
    "sm_clock_max_mhz": 1980.0,
    "memory_clock_max_mhz": 2619.0,
    "memory_bus_bits": 5120.0,
    "cores": 16896.0,
    "pcie_gen": 5.0,
    "pcie_width": 16.0,
    "nvlinks": 18.0,
    "nvlink_gbs": 25.0,
}
OF_GPU: tuple[tuple[str, str, float, dict[str, str]], ...] = (
    ("bench.matmul", "TFLOPS", 740.0, {"dtype": "bf16"}),
    ("bench.matmul", "TFLOPS", 700.0, {"dtype": "fp16"}),
    ("bench.copy", "GB/s", 2900.0, {}),
    ("bench.triad", "GB/s", 2970.0, {}),
    ("bench.host-to-device", "GB/s", 55.4, {"with": "alone"}),
    ("bench.device-to-host", "GB/s", 55.1, {"with": "alone"}),
    ("bench.host-to-device", "GB/s", 40.0, {"with": "all"}),
    ("train.transformer", "tokens/s", 90_000.0, {"world": "8", "device": H100}),
)
MEASURING = ("bench.ended", "bench.copies", "train.ended")
SOFTWARE = {"driver": "580.95.05", "torch": "2.13.0+cu130", "nccl": "2.29.7", "kernel": "6.1.0-40"}
BOARD = {"vbios": "96.00.74.00.01", "gsp": "580.95.05", "inforom_image": "G520.0200.00.05"}
Change = Callable[[dict[str, Any]], None]


def host(
    name: str,
    chance: random.Random | None = None,
    *,
    gpus: int = 8,
    model: str = H100,
    spread: float = SPREAD,
    peers: bool = True,
    **fields: Any,
) -> dict[str, Any]:
    """The document of a sound host with all its figures; without `chance` they are all alike."""
    parts = [
        {**gpu(index, name, model), "board": dict(BOARD), "physics": dict(PHYSICS)}
        for index in range(gpus)
    ]

    def around(middle: float) -> float:
        return middle * (1 + chance.gauss(0, spread)) if chance else middle

    measured = []
    for one in parts:
        part = {"kind": "gpu"} | {k: one[k] for k in ("index", "name", "uuid", "serial", "slot")}
        for what, unit, middle, conditions in OF_GPU:
            measured.append(figure(what, unit, around(middle), part, conditions))
        for to in range(gpus) if peers else ():
            if to != one["index"]:
                pair = {"to": str(to), "relation": "NV18"}
                measured.append(figure("bench.peer", "GB/s", around(390.0), part, pair))
    if gpus > 1:
        together = {"bytes": str(1 << 30), "world": str(gpus), "backend": "nccl"}
        together |= {"transport": "P2P", "algorithm": "NVLS"}
        measured.append(
            figure("bench.all-reduce", "GB/s", around(466.0), {"kind": "host"}, together)
        )
    made = document(
        name,
        gpus=gpus,
        level="standard",
        software=dict(SOFTWARE),
        prints=[
            {"key": f"{model} 2.13.0 1", "name": "products", "value": "abc", "component": part}
            for part in (one["component"] for one in measured if one["name"] == "bench.triad")
        ],
        measurements=measured,
        not_asked=[],
        **fields,
    )
    made["gpus"] = parts
    made["checks"] = [*made["checks"], *(check(id) for id in MEASURING)]
    return made


def figure(
    name: str, unit: str, value: float, part: dict[str, Any], conditions: dict[str, str]
) -> dict[str, Any]:
    return {
        "name": name,
        "unit": unit,
        "value": value,
        "component": part,
        "conditions": dict(conditions),
    }


def slowed(name: str, factor: float, index: int | None = None, **conditions: str) -> Change:
    """Every such figure of one GPU (of all of them without) by that factor."""

    def change(made: dict[str, Any]) -> None:
        changed = 0
        for one in made["measurements"]:
            here = index is None or one["component"].get("index") == index
            like = conditions.items() <= one["conditions"].items()
            if one["name"] == name and here and like:
                one["value"] *= factor
                changed += 1
        assert changed, "nothing was slowed"

    return change


def fleet(
    count: int,
    changes: dict[int, Iterable[Change]] | None = None,
    *,
    seed: int | None = None,
    **fields: Any,
) -> dict[str, HostResult]:
    """Hosts gpu001 ... by name; those of these numbers (from 1) changed."""
    chance = random.Random(seed) if seed is not None else None
    made = {}
    for number in range(1, count + 1):
        name = f"gpu{number:03d}"
        one = host(name, chance, **fields)
        for change in (changes or {}).get(number, ()):
            change(one)
        made[name] = HostResult.model_validate(one)
    return made
