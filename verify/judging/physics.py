"""What the hardware can do and must do: bounds of one figure from clock, bus and links. Pure."""

from dataclasses import dataclass

from verify.judging.figure import COLLECTIVES, COMPUTE, LINK, MEMORY, PEER, Figure
from verify.judging.figures import Figures
from verify.results import Gpu

BEYOND = 1.05
"""A figure above its bound by more is no measurement: clocks and timers are not that wrong."""
OF_DTYPE = {"fp16": 1.0, "bf16": 1.0, "tf32": 0.5, "fp8": 2.0}
"""Rate of a type as a multiple of 16 bit, dense (the vendor's datasheets, V100 to B200)."""
OF_PLAIN_CORE = 2
"""fp32 without tensor cores: one multiply-add per core and clock."""
WITH_FLOOR = ("fp16", "bf16")
DOUBLE = 2
"""Transfers per clock of memory, NVML's clock: a B200's clock x bus x 2 is 8.18 of 8.00
TB/s (stas00/ml-engineering compute/accelerator/README.md)."""


@dataclass(frozen=True)
class Bounds:
    """What a figure cannot be above, and what a healthy one is not below."""

    least: float | None = None
    most: float | None = None
    least_by: str = ""
    """Where the floor comes from, in words."""
    most_by: str = ""


NONE = Bounds()


def bounds(figure: Figure, known: Figures) -> Bounds:
    """The bounds of a figure; none where physics says nothing of it, as on a CPU."""
    if figure.on_cpu:
        return NONE
    if figure.claim == COLLECTIVES:
        return _collective(figure, known)
    if figure.gpu is None:
        return NONE
    if figure.claim == COMPUTE:
        return _compute(figure, figure.gpu, known)
    if figure.claim == MEMORY:
        return _memory(figure.gpu, known)
    if figure.claim == LINK:
        return _host_link(figure, figure.gpu, known)
    return _peer(figure, figure.gpu, known) if figure.claim == PEER else NONE


def _compute(figure: Figure, gpu: Gpu, known: Figures) -> Bounds:
    row, dtype = known.row(gpu.name), figure.conditions.get("dtype", "")
    if row is None or (dtype == "bf16" and not row.bf16):
        return NONE
    floor = known.floor["compute"]
    least = row.tflops * floor.part if row.tflops and dtype in WITH_FLOOR else None
    per_core = row.flops * OF_DTYPE[dtype] if dtype in OF_DTYPE else None
    if dtype == "fp32":
        per_core = OF_PLAIN_CORE
    cores, clock = gpu.physics.get("cores"), gpu.physics.get("sm_clock_max_mhz")
    most = by = None
    if per_core and cores and clock:
        most = cores * per_core * clock * 1e6 / 1e12
        by = f"{cores:g} cores x {per_core:g} x {clock:g} MHz"
    return Bounds(least, most, floor.why if least else "", by or "")


def _memory(gpu: Gpu, known: Figures) -> Bounds:
    clock, bits = gpu.physics.get("memory_clock_max_mhz"), gpu.physics.get("memory_bus_bits")
    if not clock or not bits:
        return NONE
    most = clock * 1e6 * bits / 8 * DOUBLE / 1e9
    row, floor = known.row(gpu.name), known.floor["memory"]
    least = most * floor.part if row is not None and row.memory else None
    by = f"{clock:g} MHz x {bits:g} bit x 2"
    return Bounds(least, most, floor.why if least else "", by)


def _pcie(gpu: Gpu, known: Figures) -> tuple[float | None, str]:
    if gpu.name.startswith(known.other_host_link.names):
        return None, ""
    gen, width = gpu.physics.get("pcie_gen"), gpu.physics.get("pcie_width")
    if not gen or not width:
        return None, ""
    return known.link(gen, width), f"PCIe {gen:g} x{width:g}"


def _host_link(figure: Figure, gpu: Gpu, known: Figures) -> Bounds:
    most, by = _pcie(gpu, known)
    if most is None:
        return NONE
    # All at once they share switches and the memory of the host: neighbours and history tell.
    alone = figure.conditions.get("with", "alone") == "alone"
    floor = known.floor["host-link"]
    return Bounds(most * floor.part if alone else None, most, floor.why if alone else "", by)


def _one_way(gpu: Gpu, links: float | None) -> float | None:
    rate = gpu.physics.get("nvlink_gbs")
    return links * rate if links and rate else None


def _peer(figure: Figure, gpu: Gpu, known: Figures) -> Bounds:
    relation = figure.conditions.get("relation", "")
    links = relation.removeprefix("NV")
    if relation.startswith("NV") and links.isascii() and links.isdigit() and len(links) < 4:
        most, floor = _one_way(gpu, float(links)), known.floor["nvlink"]
        if most is None:
            return NONE
        return Bounds(most * floor.part, most, floor.why, f"{links} NVLinks")
    # Over PCIe the way may cross a switch, a CPU, or two: no floor holds for all of them.
    most, by = _pcie(gpu, known)
    return Bounds(most=most, most_by=by)


def _collective(figure: Figure, known: Figures) -> Bounds:
    conditions = figure.conditions
    names = {gpu.name for gpu in figure.gpus}
    algorithm = conditions.get("algorithm", "").lower()
    world, sent = _whole(conditions.get("world")), _whole(conditions.get("bytes"))
    if len(names) != 1 or not world or not sent:
        return NONE
    (name,) = names
    row = next(
        (
            row
            for row in known.collective
            if name in row.names
            and f"bench.{row.name}" == figure.name
            and (row.world, row.algorithm) == (world, algorithm)
        ),
        None,
    )
    floor = known.floor["collective"]
    reached = [rate for size, rate in row.sizes if size <= sent] if row else []
    least = reached[-1] * floor.part if reached else None
    most, by = _most_together(figure, world, algorithm)
    return Bounds(least, most, floor.why if least else "", by)


def _most_together(figure: Figure, world: int, algorithm: str) -> tuple[float | None, str]:
    """Ring and tree put the bus bandwidth on each GPU's links; a switch that adds lets each byte
    through once, which counts 2 (n - 1) / n times by the definition of bus bandwidth."""
    gpu = figure.gpus[0]
    one_way = _one_way(gpu, gpu.physics.get("nvlinks"))
    if one_way is None or world != len(figure.gpus) or world < 2:
        return None, ""
    factor = 2 * (world - 1) / world if algorithm not in ("ring", "tree") else 1.0
    return one_way * factor, f"{gpu.physics['nvlinks']:g} NVLinks a GPU"


def _whole(text: str | None) -> int:
    return int(text) if text and text.isascii() and text.isdigit() and len(text) < 16 else 0
