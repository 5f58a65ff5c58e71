"""What models of GPUs can do and have been seen to do: figures.toml, typed and cross-checked."""

import json
import tomllib
from functools import cache
from pathlib import Path
from typing import Annotated

from pydantic import Field

from deploy.fleet.model import Model

FLOORS = ("compute", "memory", "host-link", "nvlink", "collective")


class Floor(Model):
    """Which part of what a healthy one can do it reaches at the very least."""

    part: Annotated[float, Field(gt=0, lt=1)]
    why: str
    source: str


class Row(Model):
    """Models with one rate. Names are NVML's."""

    names: Annotated[tuple[str, ...], Field(min_length=1)]
    flops: Annotated[int, Field(ge=1)]
    """Dense 16-bit floating-point operations per CUDA core and clock."""
    tflops: float | None = None
    """The datasheet's, dense, 16 bit; None: no floor of compute is known."""
    memory: bool = False
    """A published measurement lies above the floor of memory."""
    bf16: bool = True
    """Its tensor cores take bf16; without them it is emulated, at a speed that nobody states."""
    source: str


class Pcie(Model):
    """One generation of PCIe."""

    gen: int
    lane: float
    """GB/s of one lane, one way."""
    source: str


class Names(Model):
    """Models by how their names begin."""

    names: tuple[str, ...]
    source: str


class Collective(Model):
    """What equal hosts reach in one collective by one algorithm."""

    names: Annotated[tuple[str, ...], Field(min_length=1)]
    world: int
    name: str
    algorithm: str
    sizes: Annotated[tuple[tuple[int, float], ...], Field(min_length=1)]
    """Bytes and GB/s of bus bandwidth by nccl-tests' definition, ascending."""
    source: str


class Figures(Model):
    """The whole file."""

    sources: dict[str, str]
    floor: dict[str, Floor]
    model: tuple[Row, ...]
    pcie: tuple[Pcie, ...]
    other_host_link: Names = Field(alias="other-host-link")
    collective: tuple[Collective, ...]

    def row(self, name: str) -> Row | None:
        """The row of a model, None when nothing is known of it."""
        return next((row for row in self.model if name in row.names), None)

    def link(self, gen: float, width: float) -> float | None:
        """GB/s of a PCIe link one way, None for a generation that is not here."""
        return next((row.lane * width for row in self.pcie if row.gen == gen), None)


@cache
def figures() -> Figures:
    """The figures that ship with this package, read once. Raises ValueError for wrong data, which
    no released version should do: a test loads them."""
    text = (Path(__file__).parent / "figures.toml").read_text(encoding="utf-8")
    # Through JSON: strict models take lists for tuples there and nowhere else.
    found = Figures.model_validate_json(json.dumps(tomllib.loads(text)))
    if faults := wrong(found):
        raise ValueError("; ".join(faults))
    return found


def wrong(found: Figures) -> list[str]:
    """Rows that contradict each other, and names that lead nowhere."""
    names = [name for row in found.model for name in row.names]
    faults = [f"model {name} is there twice" for name in sorted({*names}) if names.count(name) > 1]
    faults += [f"no floor {name}" for name in FLOORS if name not in found.floor]
    cited = {found.other_host_link.source, *(row.source for row in found.floor.values())}
    cited |= {row.source for row in found.model} | {row.source for row in found.pcie}
    cited |= {row.source for row in found.collective}
    faults += [f"no source {source}" for source in sorted(cited - found.sources.keys())]
    faults += [f"source {source} is cited nowhere" for source in found.sources.keys() - cited]
    for row in found.collective:
        if list(row.sizes) != sorted(row.sizes):
            faults.append(f"sizes of {row.names[0]} {row.name} do not ascend")
    return faults
