"""What a captured file says, once it has been read: one type per kind of file."""

from typing import Annotated, Literal

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from pydantic import BaseModel, ConfigDict, Field

DriverVersion = Annotated[str, Field(pattern=r"^[1-9]\d{2}(\.\d{1,3}){1,2}$")]
Day = Annotated[str, Field(pattern=r"^\d{4}-\d{2}-\d{2}$")]


class Part(BaseModel):
    """The keys of a vendor's table that are read; the others are the vendor's own affair."""

    model_config = ConfigDict(frozen=True, strict=True)


class DriverManifest(Part):
    """A driver release: its version, and the CUDA release of its compat package ("" for none)."""

    version: DriverVersion
    date: Day
    compat: str = Field(pattern=r"^(\d{2}\.\d)?$")


class ToolkitManifest(Part):
    """A toolkit release: its version, and the driver that it bundles ("" for none)."""

    version: str = Field(pattern=r"^\d{2}\.\d\.\d{1,2}$")
    date: Day
    driver: DriverVersion | Literal[""]


class BranchSaid(Part):
    """A driver branch as releases.json has it."""

    number: int
    type: Literal["production", "lts", "feature"]
    newest: str


class ChipSaid(Part):
    """A GPU as supported-gpus.json has it."""

    device: str
    name: str
    legacy: int | None
    """Last branch with support, None while it is supported."""
    open: bool
    """Open modules support it."""


class WheelSaid(Part):
    """A torch wheel by its METADATA."""

    model_config = ConfigDict(frozen=True, strict=True, arbitrary_types_allowed=True)

    version: str
    build: str
    """cu126 of 2.14.1+cu126; "" for the default index's wheel."""
    python: SpecifierSet
    requires: tuple[Requirement, ...]


Branches = tuple[BranchSaid, ...]
Chips = tuple[ChipSaid, ...]
Said = DriverManifest | ToolkitManifest | Branches | Chips | WheelSaid
