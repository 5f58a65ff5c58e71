"""Reads the data files and refuses rows that contradict each other, naming them all."""

import json
import tomllib
from functools import cache
from importlib.resources import files
from typing import Any

from pydantic import ValidationError

from deploy.catalog.agree import disagreements
from deploy.catalog.models import Catalogue
from deploy.catalog.systems import compose
from deploy.catalog.systems_check import systems_contradict

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
        "cuda_compat": tables["cuda"].get("compat"),
        "cuda_notices": tables["cuda"].get("notice"),
        "cudnn": tables["cuda"].get("cudnn"),
        "torch_index": tables["torch"].get("index"),
        "torch_tools": tables["torch"].get("tools"),
        "torch_gpu_tools": tables["torch"].get("gpu_tools"),
        "torch": tables["torch"].get("release"),
        "vendor": tables["distributions"].get("vendor"),
        "keys": tables["distributions"].get("key"),
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
        *disagreements(catalogue),
        *systems_contradict(catalogue),
    ]


def _duplicates(catalogue: Catalogue) -> list[str]:
    keys: dict[str, list[Any]] = {
        "gpus: architecture": [row.name for row in catalogue.architectures],
        "gpus: device": [row.device for row in catalogue.gpus]
        + [row.device for row in catalogue.nvswitches],
        "drivers: branch": [row.number for row in catalogue.branches],
        "cuda: release": [row.release for row in catalogue.cuda_releases],
        "cuda: update": [one.version for row in catalogue.cuda_releases for one in row.updates],
        "cuda: major": [row.major for row in catalogue.cuda_majors],
        "torch: release": [row.version for row in catalogue.torch],
        "torch: build": [
            f"{row.version}+{build.build} for {build.machine}"
            for row in catalogue.torch
            for build in row.builds
        ],
        "distributions: key": [row.name for row in catalogue.keys],
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
            *(one for row in catalogue.cuda_releases for one in row.updates if one.source),
            *catalogue.cuda_compat,
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
        "distributions": [catalogue.vendor, *catalogue.keys, *catalogue.distributions],
    }
    return [
        f"{file}: {row!r} names source {row.source}, which the file does not have"
        for file, members in rows.items()
        for row in members
        if f"{file}.{row.source}" not in catalogue.sources
    ]
