"""What the vendors publish for machines, read strictly from captured files.

Five kinds, told apart by their content: the redistrib JSON of a driver and of a CUDA toolkit
(developer.download.nvidia.com/compute/nvidia-driver and compute/cuda), releases.json of the
data-centre drivers (docs.nvidia.com), supported-gpus.json of a driver package, and the METADATA of
a torch wheel. A file is hostile until it has been read: bounded, without duplicate keys, and every
value that is taken out of it has a grammar.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

from packaging.metadata import parse_email
from packaging.requirements import InvalidRequirement, Requirement
from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.version import InvalidVersion, Version
from pydantic import Field, TypeAdapter, ValidationError

from deploy.catalog.said import (
    BranchSaid,
    ChipSaid,
    Day,
    DriverManifest,
    DriverVersion,
    Part,
    Said,
    ToolkitManifest,
    WheelSaid,
)

LIMIT = 8 * 1024 * 1024
"""Bytes of one file; the largest real one, supported-gpus.json, has under one MiB."""


class CaptureError(ValueError):
    """Files that are not what they should be; one line per fault, each naming its file."""

    def __init__(self, faults: list[str]) -> None:
        self.faults = faults
        super().__init__("\n".join(faults))


class _Release(Part):
    release_version: DriverVersion
    release_date: Day | Literal[""]


class _Branch(Part):
    type: Literal["production branch", "lts branch", "new feature branch"]
    driver_info: list[_Release] = Field(min_length=1, max_length=500)


class _Chip(Part):
    devid: str = Field(pattern=r"^0x[0-9A-Fa-f]{4}$")
    name: str = Field(pattern=r"^[\x20-\x7e]{1,120}$")
    legacybranch: str | None = Field(default=None, pattern=r"^\d{2,3}(\.\d{2})?\.xx$")
    features: tuple[str, ...] = ()


_BRANCHES = TypeAdapter(dict[Annotated[str, Field(pattern=r"^[1-9]\d{2}$")], _Branch])
_CHIPS = TypeAdapter(list[_Chip])
_TYPES = {"production branch": "production", "lts branch": "lts", "new feature branch": "feature"}


def read(paths: list[Path]) -> list[tuple[Path, Said]]:
    """What all files say, in their order. Raises CaptureError with the faults of all of them."""
    found, faults = [], []
    for path in paths:
        try:
            found.append((path, _said(path)))
        except ValidationError as error:
            faults += [f"{path}: {_told(detail)}" for detail in error.errors()[:20]]
        except (ValueError, OSError, RecursionError) as error:
            faults += [f"{path}: {line}" for line in str(error).splitlines() or ["not readable"]]
    if faults:
        raise CaptureError(faults)
    return found


def _told(detail: Any) -> str:
    where = ".".join(str(part) for part in detail["loc"]) or "content"
    return f"{ascii(where)[1:-1]}: {detail['msg']}"


def _said(path: Path) -> Said:
    if path.exists() and not path.is_file():
        raise ValueError("no regular file")
    with path.open("rb") as file:
        content = file.read(LIMIT + 1)
    if len(content) > LIMIT:
        raise ValueError(f"more than {LIMIT} bytes")
    if content.lstrip().startswith(b"Metadata-Version:"):
        return _wheel(content)
    try:
        table = json.loads(content.decode(), object_pairs_hook=_once, parse_constant=_no_constant)
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"neither JSON nor METADATA: {error}") from None
    if not isinstance(table, dict) or not table:
        raise ValueError("JSON, but no table of any vendor's file")
    if "chips" in table:
        return tuple(_chips(_CHIPS.validate_json(json.dumps(table["chips"]))))
    if "release_date" in table:
        return _manifest(path, table)
    return tuple(_branches(_BRANCHES.validate_python(table)))


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) != len(pairs):
        raise ValueError("a key is there twice in one table")
    return table


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")


def _version(table: dict[str, Any], part: str) -> Any:
    component = table.get(part)
    return component.get("version", "") if isinstance(component, dict) else ""


def _manifest(path: Path, table: dict[str, Any]) -> DriverManifest | ToolkitManifest:
    driver = _version(table, "nvidia_driver")
    if {"cuda_cudart", "cuda_nvcc"} & table.keys():
        named = re.fullmatch(r"redistrib_([\d.]+)\.json", path.name)
        version = table.get("release_label") or (named[1] if named else "")
        return ToolkitManifest(version=version, date=table["release_date"], driver=driver)
    if driver:
        compat = re.match(r"\d{2}\.\d(?=\.)", str(_version(table, "cuda_compat")))
        return DriverManifest(
            version=driver, date=table["release_date"], compat=compat[0] if compat else ""
        )
    raise ValueError("a redistrib JSON of neither a driver nor a CUDA toolkit")


def _branches(table: dict[str, _Branch]) -> Iterator[BranchSaid]:
    for number, row in table.items():
        versions = [one.release_version for one in row.driver_info]
        strange = [one for one in versions if one.split(".")[0] != number]
        if strange:
            raise ValueError(f"branch {number} lists {strange[0]}")
        newest = max(versions, key=lambda one: tuple(map(int, one.split("."))))
        yield BranchSaid.model_validate(
            {"number": int(number), "type": _TYPES[row.type], "newest": newest}
        )


def _chips(rows: list[_Chip]) -> Iterator[ChipSaid]:
    """One per device: the file has a row per board. Boards of one chip share their last branch;
    the open flavour counts when any of them has it, some lists name it for servers only."""
    found: dict[str, ChipSaid] = {}
    for row in rows:
        device = row.devid[2:].lower()
        legacy = int(row.legacybranch.split(".")[0]) if row.legacybranch else None
        known = found.get(device)
        if known and known.legacy != legacy:
            raise ValueError(f"device {device}: {known.name} and {row.name} contradict each other")
        found[device] = ChipSaid(
            device=device,
            name=known.name if known else row.name,
            legacy=legacy,
            open="kernelopen" in row.features or bool(known and known.open),
        )
    yield from found.values()


def _wheel(content: bytes) -> WheelSaid:
    raw, _ = parse_email(content)
    if raw.get("name") != "torch":
        raise ValueError(f"METADATA of {raw.get('name')!r:.60}, not of torch")
    try:
        version = Version(raw.get("version", ""))
        python = SpecifierSet(raw.get("requires_python", ""))
        requires = tuple(Requirement(line) for line in raw.get("requires_dist", []))
    except (InvalidVersion, InvalidSpecifier, InvalidRequirement) as error:
        raise ValueError(str(error)) from None
    build = version.local or ""
    if not re.fullmatch(r"(cu\d{3})?", build):
        raise ValueError(f"torch {version} is no CUDA build and none of the default index")
    return WheelSaid(version=version.public, build=build, python=python, requires=requires)
