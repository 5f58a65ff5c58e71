"""Heat and what holds clocks down."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from verify.applies import Scene
from verify.checks import Look, check
from verify.gpus import answering, part, told

HARDWARE = {
    0x08: "hardware slowdown",
    0x40: "hardware thermal slowdown",
    0x80: "power brake from outside the GPU",
}
THERMAL = {0x20: "software thermal slowdown"}
"""Bits of NVML's clocks event reasons (nvml.h). Idle, a limit of
power at work and clocks that somebody set are no fault."""


@check(
    "gpu.clocks",
    component="gpu",
    needs=("nvml", "clocks"),
    action="drain",
    source="NVML API: clocks event reasons, each bit by itself (Azure's "
    "azure_gpu_clock_throttling.nhc compares the whole mask)",
    fault="nvml:5:clocks_event_reasons=0x89",
)
def test_clocks(
    scene: Scene,
    gpus: list[dict[str, Any]],
    threshold: Callable[[str], float],
    look: Look,
) -> None:
    """Neither heat nor the power supply holds a GPU's clocks down."""
    for gpu in answering(gpus, scene, look):
        reasons = told(gpu, "clocks.reasons", "why clocks are low", look)
        if reasons is None:
            continue
        hard = [name for bit, name in HARDWARE.items() if reasons & bit]
        soft = [name for bit, name in THERMAL.items() if reasons & bit]
        left = margin(gpu)
        hot = left is not None and left < threshold("gpu.margin-c")
        look.at(
            part(gpu),
            "what holds the clocks down",
            found=hard + soft,
            expected=[],
            verdict="fail" if hard else "degraded",
            action="drain" if hard else "keep",
            evidence=(f"reasons {reasons:#x}; nvidia-smi -i {gpu['index']} -q -d PERFORMANCE",),
            because="gpu.temperature" if hot and not reasons & 0x80 else "",
        )


def margin(gpu: dict[str, Any]) -> int | None:
    """Degrees that are left until a GPU slows itself down: what it says itself, else what its
    threshold leaves; None: neither is told."""
    heat = gpu["heat"] or {}
    if heat.get("margin") is not None:
        return int(heat["margin"])
    if heat.get("gpu") is None or heat.get("slowdown") is None:
        return None
    return int(heat["slowdown"]) - int(heat["gpu"])


@check(
    "gpu.temperature",
    component="gpu",
    needs=("nvml", "heat"),
    action="drain",
    source="NVML API: temperature and the device's own thresholds; leptonai/gpud: the same",
    fault="nvml:3:temperature=91",
)
def test_temperature(
    scene: Scene,
    gpus: list[dict[str, Any]],
    threshold: Callable[[str], float],
    look: Look,
) -> None:
    """Every GPU and its memory are cooler than what the device itself takes for too hot."""
    least = threshold("gpu.margin-c")
    for gpu in answering(gpus, scene, look):
        found = told(gpu, "heat.gpu", "temperature", look)
        left = margin(gpu)
        if left is not None:
            _judge(gpu, "temperature", found, left, least, look)
        elif found is not None:
            told(gpu, "heat.slowdown", "temperature at which it slows down", look)
        memory, most = (
            told(gpu, f"heat.{name}", "temperature of memory", look)
            for name in ("memory", "memory_max")
        )
        if memory is not None and most is not None:
            _judge(gpu, "temperature of memory", memory, most - memory, least, look)


def _judge(
    gpu: dict[str, Any], what: str, found: int | None, left: int, least: float, look: Look
) -> None:
    where = f"{left} C below" if left >= 0 else f"{-left} C above"
    look.at(
        part(gpu),
        what,
        found=f"{'' if found is None else f'{found} C, '}{where} the device's own limit",
        expected=f"at least {least:g} C below it",
        held=left >= least,
        verdict="degraded" if left > 0 else "fail",
        baseline="physics",
    )
