"""Rows that contradict each other are refused, all at once, each fault by file and row."""

import copy
import tomllib
from importlib.resources import files
from typing import Any

import pytest

from deploy.catalog import CatalogueError
from deploy.catalog.load import FILES, assemble

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


def change(file: str, key: str, match: dict[str, Any], **values: Any) -> Any:
    def apply(tables: Tables) -> None:
        row(tables, file, key, **match).update(values)

    return apply


def add(file: str, key: str, match: dict[str, Any], **values: Any) -> Any:
    def apply(tables: Tables) -> None:
        tables[file][key].append({**copy.deepcopy(row(tables, file, key, **match)), **values})

    return apply


def build(version: str, name: str, machine: str = "x86_64", **values: Any) -> Any:
    def apply(tables: Tables) -> None:
        found = row(tables, "torch", "release", version=version)
        next(
            one
            for one in found["build"]
            if (one["build"], one.get("machine", "x86_64")) == (name, machine)
        ).update(values)

    return apply


def update(release: str, index: int, **values: Any) -> Any:
    def apply(tables: Tables) -> None:
        row(tables, "cuda", "release", release=release)["update"][index].update(values)

    return apply


def swap_releases(tables: Tables) -> None:
    found = tables["torch"]["release"]
    found[0], found[1] = found[1], found[0]


def only_old_branches(tables: Tables) -> None:
    tables["drivers"]["branch"] = [
        one for one in tables["drivers"]["branch"] if one["number"] < 580
    ]


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
        (update("13.0", -1, driver="570.1"), "below the floor 580"),
        (update("12.9", -1, driver="590.1"), "12.9 needs 590.1"),
        (update("12.9", 0, driver="575.99"), "update 12.9.0 needs 575.99"),
        (update("12.9", 0, version="12.8.7"), "12.9 has an update 12.8.7"),
        (update("12.9", 0, version="12.9.7"), "update 12.9.1 stands after 12.9.7"),
        (update("12.9", 0, version="12.9.1"), "update 12.9.1 is there twice"),
        (change("cuda", "release", {"release": "12.9"}, update=[]), "update"),
        (change("cuda", "compat", {"release": "13.2"}, driver="580.1"), "shipped with CUDA 13.0"),
        (change("cuda", "compat", {"release": "13.2"}, driver="581.1"), "no row in drivers"),
        (change("cuda", "notice", {"release": "13.2"}, fixed="13.3.1"), "is fixed in 13.3.1"),
        (change("cuda", "release", {"release": "12.9"}, release="14.0"), "no row for its major"),
        (change("cuda", "notice", {"release": "12.9"}, release="12.7"), "notice names release"),
        (change("drivers", "branch", {"number": 590}, kernel_fails="seven"), "kernel_fails"),
        (
            change("drivers", "branch", {"number": 610}, kernel_fails="6.12"),
            "branch 610 fails from kernel 6.12 on, the older 590 only from 7.0 on",
        ),
        (
            change("drivers", "notice", {"branch": 615}, fixed="610.1"),
            "branch 615 is fixed in 610.1",
        ),
        (
            change("drivers", "notice", {"branch": 615}, architecture="black"),
            "no architecture black",
        ),
        (
            change("gpus", "range", {"first": "2300"}, last="24ff"),
            "ranges 2300-24ff (hopper) and 2340-234f (grace-hopper) overlap",
        ),
        (change("gpus", "range", {"first": "2300"}, last="22ff"), "ends before it begins"),
        (change("gpus", "range", {"first": "2300"}, last="0x23"), "last"),
        (change("gpus", "range", {"first": "2300"}, first="2290"), "holds 22a3"),
        (change("gpus", "range", {"first": "2300"}, architecture="hop"), "no architecture hop"),
        (
            change("gpus", "range", {"first": "2300"}, architecture="ada"),
            "2330 H100 SXM5 80GB is hopper, inside the range 2300-233f of ada",
        ),
        (change("gpus", "gpu", {"device": "2901"}, nvlink=0), "needs nvlink5 and has no NVLink"),
        (change("gpus", "gpu", {"device": "2901"}, kind="big"), "kind"),
        (change("gpus", "nvswitch", {"device": "22a3"}, nvlink=0), "nvlink"),
        (
            change("gpus", "architecture", {"name": "volta"}, driver_min=581, driver_max=589),
            "volta: no branch in drivers serves it",
        ),
        (change("gpus", "architecture", {"name": "volta"}, cuda_min="13.0"), "after its last 12.9"),
        (only_old_branches, "needs driver 580, which no branch in drivers reaches"),
        (swap_releases, "2.15.0 stands after 2.14.1"),
        (
            change("torch", "release", {"version": "2.13.0"}, torchvision="0.31.0"),
            "older 2.13.0 has 0.31.0",
        ),
        (change("torch", "release", {"version": "2.13.0"}, torchaudio="2.14.0"), "newer torch's"),
        (
            change("torch", "release", {"version": "2.13.0"}, cpu_wheel=["aarch64"]),
            "2.13.0+cu130 is the default index's wheel for aarch64, cpu_wheel says",
        ),
        (
            change("torch", "release", {"version": "2.10.0"}, cpu_wheel=[]),
            "2.10.0 has no build on the default index for aarch64",
        ),
        (change("torch", "release", {"version": "2.10.0"}, cpu_wheel=["arm"]), "cpu_wheel"),
        (build("2.13.0", "cu130", pins=[]), "is on the default index and has no pins"),
        (build("2.13.0", "cu126", pins=["x==1"]), "is not on the default index and has pins"),
        (build("2.13.0", "cu130", pins=["x = 1"]), "is no requirement"),
        (build("2.13.0", "cu130", pins=["nvidia-nccl-cu13==2"]), "says again"),
        (
            build("2.13.0", "cu130", pins=["cuda-toolkit==13.2.1"]),
            "claims CUDA 13.0, its metadata asks for cuda-toolkit==13.2.1",
        ),
        (build("2.8.0", "cu126", capabilities=["10.0"]), "blackwell), whose first CUDA is 12.8"),
        (build("2.13.0", "cu126", machine="aarch64", cuda="12.8"), "for aarch64 claims CUDA 12.8"),
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
