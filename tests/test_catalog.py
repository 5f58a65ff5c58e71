"""The data files hold together, and rows that contradict each other are refused by name."""

import copy
import tomllib
from importlib.resources import files
from typing import Any

import pytest

from deploy.catalog import CatalogueError, load
from deploy.catalog.load import FILES, assemble
from deploy.catalog.models import numbers

Tables = dict[str, dict[str, Any]]


@pytest.fixture
def tables() -> Tables:
    folder = files("deploy.catalog")
    return {name: tomllib.loads((folder / f"{name}.toml").read_text()) for name in FILES}


def row(tables: Tables, file: str, key: str, **match: Any) -> dict[str, Any]:
    found = [
        one
        for one in tables[file][key]
        if all(one.get(name) == value for name, value in match.items())
    ]
    assert len(found) == 1
    return found[0]


def test_the_catalogue_loads_and_every_row_names_a_dated_source() -> None:
    catalogue = load()
    assert catalogue.source("gpus", "ogkm").endswith("2026-11-22")
    assert all(source.date >= "2023" for source in catalogue.sources.values())
    assert catalogue.vendor("apt").key_fingerprint == "EB693B3035CD5710E231E123A4B469963BF863CC"


@pytest.mark.parametrize(
    ("device", "name", "compute", "architecture"),
    [
        ("1db5", "V100", "7.0", "volta"),
        ("1eb8", "T4", "7.5", "turing"),
        ("20b2", "A100", "8.0", "ampere"),
        ("2236", "A10", "8.6", "ampere"),
        ("20b7", "A30", "8.0", "ampere"),
        ("27b8", "L4", "8.9", "ada"),
        ("26b9", "L40S", "8.9", "ada"),
        ("2330", "H100", "9.0", "hopper"),
        ("2335", "H200", "9.0", "hopper"),
        ("2901", "B200", "10.0", "blackwell"),
    ],
)
def test_data_centre_parts(device: str, name: str, compute: str, architecture: str) -> None:
    found = load().gpu[device]
    assert name in found.name
    assert (found.compute, found.architecture) == (compute, architecture)


def test_a_build_runs_on_its_own_major_and_not_above_its_minor() -> None:
    build = next(build for row in load().torch for build in row.builds if build.build == "cu132")
    assert build.runs_on("8.9")  # by its 8.6 code
    assert build.runs_on("10.3")
    assert build.runs_on("12.1")
    assert not build.runs_on("7.0")
    assert not build.runs_on("11.0")  # only PTX would carry it


def test_the_newest_driver_of_a_branch_serves_what_shipped_with_it() -> None:
    catalogue = load()
    for branch in catalogue.branches:
        assert numbers(branch.newest) >= numbers(
            catalogue.cuda_major[numbers(branch.cuda)[0]].driver
        )


def change(file: str, key: str, match: dict[str, Any], **values: Any) -> Any:
    def apply(tables: Tables) -> None:
        row(tables, file, key, **match).update(values)

    return apply


def add(file: str, key: str, match: dict[str, Any], **values: Any) -> Any:
    def apply(tables: Tables) -> None:
        tables[file][key].append({**copy.deepcopy(row(tables, file, key, **match)), **values})

    return apply


def build(version: str, name: str, **values: Any) -> Any:
    def apply(tables: Tables) -> None:
        found = row(tables, "torch", "release", version=version)
        next(one for one in found["build"] if one["build"] == name).update(values)

    return apply


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (add("gpus", "gpu", {"device": "2330"}), "device 2330 is there twice"),
        (add("drivers", "branch", {"number": 580}), "branch 580 is there twice"),
        (add("torch", "release", {"version": "2.13.0"}), "release 2.13.0 is there twice"),
        (change("gpus", "gpu", {"device": "2330"}, architecture="hoper"), "no architecture hoper"),
        (change("gpus", "gpu", {"device": "2330"}, compute="8.9"), "8.9 belongs to ada"),
        (change("gpus", "gpu", {"device": "2330"}, source="x"), "names source x"),
        (change("gpus", "gpu", {"device": "2330"}, device="0x2330"), "gpus"),
        (change("gpus", "gpu", {"device": "2330"}, pci="1"), "pci"),
        (change("gpus", "architecture", {"name": "volta"}, modules=[]), "modules"),
        (change("gpus", "architecture", {"name": "volta"}, driver_min=590), "after 580"),
        (change("gpus", "architecture", {"name": "volta"}, driver_max=581), "branch 581"),
        (change("gpus", "architecture", {"name": "volta"}, cuda_last="12.7"), "no CUDA release"),
        (change("drivers", "branch", {"number": 580}, newest="595.1"), "580: newest 595.1"),
        (change("drivers", "branch", {"number": 580}, ended=True), "580: has an end of life"),
        (change("drivers", "branch", {"number": 580}, cuda="13.2"), "which needs 595.71.05"),
        (change("cuda", "release", {"release": "13.0"}, driver="570.1"), "below the floor 580"),
        (change("cuda", "release", {"release": "12.9"}, driver="590.1"), "12.9 needs 590.1"),
        (change("cuda", "release", {"release": "12.9"}, release="14.0"), "no row for its major"),
        (change("cuda", "notice", {"release": "12.9"}, release="12.7"), "notice names release"),
        (build("2.13.0", "cu126", pypi=True), "two builds on the default index"),
        (build("2.13.0", "cu126", cuda="12.8"), "claims CUDA 12.8"),
        (build("2.13.0", "cu126", cudnn="9.20.0.48"), "cuDNN 9.20.0.48 does not support"),
        (build("2.13.0", "cu130", capabilities=["7.0", "9.0"]), "(volta), whose last CUDA is 12.9"),
        (build("2.13.0", "cu130", source="x"), "names source x"),
    ],
)
def test_contradicting_rows_are_refused_by_name(tables: Tables, damage: Any, said: str) -> None:
    damage(tables)
    with pytest.raises(CatalogueError) as error:
        assemble(tables)
    assert said in str(error.value)


def test_every_fault_is_said_at_once(tables: Tables) -> None:
    change("gpus", "gpu", {"device": "2330"}, source="x")(tables)
    change("drivers", "branch", {"number": 580}, ended=True)(tables)
    with pytest.raises(CatalogueError) as error:
        assemble(tables)
    assert len(error.value.faults) == 2
