"""Reads the data files and refuses rows that contradict each other, naming them all."""

import json
import tomllib
from functools import cache
from importlib.resources import files
from itertools import pairwise
from typing import Any

from pydantic import ValidationError

from deploy.catalog.models import Catalogue, TorchBuild, numbers
from deploy.catalog.systems import compose

FILES = ("gpus", "drivers", "cuda", "torch", "packages", "distributions")


class CatalogueError(ValueError):
    """The data files are wrong: each line names a file and a row."""

    def __init__(self, faults: list[str]) -> None:
        self.faults = faults
        super().__init__("\n".join(faults))


@cache
def load() -> Catalogue:
    """The catalogue that ships with this package, read once.

    Raises CatalogueError, which no released version should ever do: a test loads it.
    """
    folder = files("deploy.catalog")
    return assemble({name: tomllib.loads((folder / f"{name}.toml").read_text()) for name in FILES})


def assemble(tables: dict[str, dict[str, Any]]) -> Catalogue:
    """A catalogue from parsed files (name without suffix -> table), all rows cross-checked."""
    distributions, lost = compose(tables["distributions"], tables["packages"])
    if lost:
        raise CatalogueError(lost)
    content = {
        "sources": {
            f"{name}.{key}": row
            for name, table in tables.items()
            for key, row in table.get("sources", {}).items()
        },
        "architectures": tables["gpus"].get("architecture"),
        "gpus": tables["gpus"].get("gpu"),
        "ranges": tables["gpus"].get("range"),
        "nvswitches": tables["gpus"].get("nvswitch"),
        "branches": tables["drivers"].get("branch"),
        "driver_notices": tables["drivers"].get("notice"),
        "closed_last": tables["drivers"].get("closed_last"),
        "cuda_majors": tables["cuda"].get("major"),
        "cuda_releases": tables["cuda"].get("release"),
        "cuda_notices": tables["cuda"].get("notice"),
        "cudnn": tables["cuda"].get("cudnn"),
        "torch_index": tables["torch"].get("index"),
        "torch_tools": tables["torch"].get("tools"),
        "torch_gpu_tools": tables["torch"].get("gpu_tools"),
        "torch": tables["torch"].get("release"),
        "vendors": tables["distributions"].get("vendor"),
        "driver_schemes": tables["packages"].get("driver"),
        "supports": tables["packages"].get("support"),
        "distributions": distributions,
    }
    try:
        # Through JSON: strict models take lists for tuples there and nowhere else.
        catalogue = Catalogue.model_validate_json(json.dumps(content))
    except ValidationError as error:
        raise CatalogueError(
            [
                f"{'.'.join(str(part) for part in detail['loc'])}: {detail['msg']}"
                for detail in error.errors()
            ]
        ) from None
    if faults := contradictions(catalogue):
        raise CatalogueError(faults)
    return catalogue


def contradictions(catalogue: Catalogue) -> list[str]:
    """Every pair of rows that cannot both be true, and every name that leads nowhere."""
    return [
        *_duplicates(catalogue),
        *_sources(catalogue),
        *_gpus(catalogue),
        *_drivers(catalogue),
        *_cuda(catalogue),
        *_torch(catalogue),
    ]


def _duplicates(catalogue: Catalogue) -> list[str]:
    keys: dict[str, list[Any]] = {
        "gpus: architecture": [row.name for row in catalogue.architectures],
        "gpus: device": [row.device for row in catalogue.gpus]
        + [row.device for row in catalogue.nvswitches],
        "drivers: branch": [row.number for row in catalogue.branches],
        "cuda: release": [row.release for row in catalogue.cuda_releases],
        "cuda: major": [row.major for row in catalogue.cuda_majors],
        "torch: release": [row.version for row in catalogue.torch],
        "torch: build": [
            f"{row.version}+{build.build}" for row in catalogue.torch for build in row.builds
        ],
        "distributions": [row.name for row in catalogue.distributions]
        + [(one, row.version) for row in catalogue.distributions for one in row.ids],
    }
    return [
        f"{where} {value} is there twice"
        for where, values in keys.items()
        for value in sorted({str(value) for value in values if values.count(value) > 1})
    ]


def _sources(catalogue: Catalogue) -> list[str]:
    rows: dict[str, list[Any]] = {
        "gpus": [
            *catalogue.architectures,
            *catalogue.gpus,
            *catalogue.ranges,
            *catalogue.nvswitches,
        ],
        "drivers": [*catalogue.branches, *catalogue.driver_notices, catalogue.closed_last],
        "cuda": [
            *catalogue.cuda_majors,
            *catalogue.cuda_releases,
            *catalogue.cuda_notices,
            *catalogue.cudnn,
        ],
        "torch": [build for row in catalogue.torch for build in row.builds],
        "packages": [
            *catalogue.driver_schemes,
            *catalogue.supports,
            *(row.base for row in catalogue.distributions),
            *(row.libraries for row in catalogue.distributions),
        ],
        "distributions": [*catalogue.vendors, *catalogue.distributions],
    }
    return [
        f"{file}: {row!r} names source {row.source}, which the file does not have"
        for file, members in rows.items()
        for row in members
        if f"{file}.{row.source}" not in catalogue.sources
    ]


def _gpus(catalogue: Catalogue) -> list[str]:
    found = []
    homes: dict[str, str] = {}
    for row in catalogue.gpus:
        if row.architecture not in catalogue.architecture:
            found.append(f"gpus: {row.device} {row.name}: no architecture {row.architecture}")
            continue
        family = row.architecture.removeprefix("grace-")
        if homes.setdefault(row.compute, family) != family:
            found.append(
                f"gpus: {row.device} {row.name}: compute capability {row.compute} belongs to "
                f"{homes[row.compute]}, not {row.architecture}"
            )
    for kind in catalogue.architectures:
        if kind.driver_max is not None and kind.driver_min > kind.driver_max:
            found.append(
                f"gpus: {kind.name}: first branch {kind.driver_min} is after {kind.driver_max}"
            )
        for release in (kind.cuda_last,):
            if release is not None and release not in catalogue.cuda_release:
                found.append(f"gpus: {kind.name}: no CUDA release {release} in cuda")
    return found


def _drivers(catalogue: Catalogue) -> list[str]:
    found = []
    for row in catalogue.branches:
        if numbers(row.newest)[0] != row.number:
            found.append(f"drivers: branch {row.number}: newest {row.newest} is another branch")
        if row.ended and row.end_of_life:
            found.append(f"drivers: branch {row.number}: has an end of life and has ended")
        release = catalogue.cuda_release.get(row.cuda)
        if release is None:
            found.append(f"drivers: branch {row.number}: no CUDA release {row.cuda} in cuda")
        elif numbers(release.driver)[0] > row.number:
            found.append(
                f"drivers: branch {row.number} shipped with CUDA {row.cuda}, "
                f"which needs {release.driver}"
            )
    for name, number in [
        ("closed_last", catalogue.closed_last.branch),
        *((f"notice of {row.fixed}", row.branch) for row in catalogue.driver_notices),
        *((f"gpus: {row.name}", row.driver_max) for row in catalogue.architectures),
    ]:
        if number is not None and number not in catalogue.branch:
            found.append(f"drivers: {name} names branch {number}, which has no row")
    return found


def _cuda(catalogue: Catalogue) -> list[str]:
    found = []
    rows = sorted(catalogue.cuda_releases, key=lambda row: numbers(row.release))
    for row in rows:
        major = catalogue.cuda_major.get(numbers(row.release)[0])
        if major is None:
            found.append(f"cuda: release {row.release} has no row for its major")
        elif numbers(row.driver) < numbers(major.driver):
            found.append(
                f"cuda: release {row.release} needs {row.driver}, "
                f"below the floor {major.driver} of its major"
            )
    for older, newer in pairwise(rows):
        if numbers(older.driver) > numbers(newer.driver):
            found.append(
                f"cuda: release {older.release} needs {older.driver}, "
                f"newer {newer.release} only {newer.driver}"
            )
    for notice in catalogue.cuda_notices:
        if notice.release not in catalogue.cuda_release:
            found.append(f"cuda: notice names release {notice.release}, which has no row")
    return found


def _torch(catalogue: Catalogue) -> list[str]:
    found = []
    for row in catalogue.torch:
        if sum(build.pypi for build in row.builds) > 1:
            found.append(f"torch: {row.version} has two builds on the default index")
        for build in row.builds:
            name = f"torch: {row.version}+{build.build}"
            if build.build != "cu" + build.cuda.replace(".", ""):
                found.append(f"{name} claims CUDA {build.cuda}")
            if build.cuda not in catalogue.cuda_release:
                found.append(f"{name}: no CUDA release {build.cuda} in cuda")
            else:
                found += [f"{name}{fault}" for fault in _capabilities(catalogue, build)]
    return found


def _capabilities(catalogue: Catalogue, build: TorchBuild) -> list[str]:
    found = []
    for compute in build.capabilities:
        for rule in catalogue.cudnn:
            newer = numbers(build.cudnn) >= numbers(rule.from_version)
            if newer and numbers(compute) < numbers(rule.compute):
                found.append(
                    f" holds code for {compute}, which its cuDNN {build.cudnn} does not support"
                )
        for kind in {gpu.architecture for gpu in catalogue.gpus if gpu.compute == compute}:
            last = (
                catalogue.architecture[kind].cuda_last if kind in catalogue.architecture else None
            )
            if last is not None and numbers(build.cuda) > numbers(last):
                found.append(f" holds code for {compute} ({kind}), whose last CUDA is {last}")
    return found
