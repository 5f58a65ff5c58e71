"""What the data files say of silicon, drivers, CUDA and torch."""

import pytest

from deploy.catalog import load
from deploy.catalog.models import numbers


def test_the_catalogue_loads_and_every_row_names_a_dated_source() -> None:
    catalogue = load()
    assert catalogue.source("gpus", "ogkm").endswith("2026-11-22")
    assert all(source.date >= "2023" for source in catalogue.sources.values())
    assert catalogue.key_of("debian12").fingerprint == "EB693B3035CD5710E231E123A4B469963BF863CC"


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


@pytest.mark.parametrize(
    ("device", "architecture"),
    [
        ("1b7f", "pascal"),
        ("1dff", "volta"),
        ("21ab", "turing"),
        ("20fe", "ampere"),
        ("233f", "hopper"),
        ("2345", "grace-hopper"),
        ("28ff", "ada"),
        ("2bff", "blackwell"),
        ("31ff", "blackwell"),
        ("2b00", None),  # Jetson: its driver is part of its system image
        ("3002", None),  # Rubin: no driver of the catalogue names it
        ("2f95", None),  # a root port
        ("22a3", None),  # an NVSwitch
    ],
)
def test_an_unknown_id_falls_to_the_range_of_its_architecture(
    device: str, architecture: str | None
) -> None:
    found = load().range_of(device)
    assert device not in load().gpu
    assert (found.name if found else None) == architecture


@pytest.mark.parametrize(
    ("device", "fabric", "nvlink", "kind"),
    [
        ("1db5", "", 2, "data-centre"),
        ("1db4", "", 0, "data-centre"),
        ("20b2", "", 3, "data-centre"),
        ("2330", "", 4, "data-centre"),
        ("2901", "nvlink5", 5, "data-centre"),
        ("3182", "nvlink5", 5, "data-centre"),
        ("31c2", "imex", 5, "data-centre"),
        ("2941", "imex", 5, "data-centre"),
        ("2bb5", "", 0, "data-centre"),
        ("2684", "", 0, "workstation"),
        ("2230", "", 3, "workstation"),
    ],
)
def test_what_boards_need_and_carry(device: str, fabric: str, nvlink: int, kind: str) -> None:
    found = load().gpu[device]
    assert (found.fabric, found.nvlink, found.kind) == (fabric, nvlink, kind)


def test_nvswitches_tell_their_nvlink() -> None:
    assert {row.device: row.nvlink for row in load().nvswitches} == {"1af1": 3, "22a3": 4}


@pytest.mark.parametrize(
    ("release", "version", "floor"),
    [
        ("13.0", "13.0.0", "580.65.06"),
        ("13.0", "13.0.2", "580.95.05"),
        ("13.0", "13.0.3", "580.126.20"),
        ("13.0", "13.0.9", "580.126.20"),  # an update without a row: the newest one's floor
        ("12.6", "12.6.0", "560.28.03"),
        ("13.4", "13.4.1", "615"),
    ],
)
def test_the_floor_of_an_update(release: str, version: str, floor: str) -> None:
    assert load().cuda_release[release].floor(version) == floor


def test_a_release_asks_for_the_driver_of_its_newest_update() -> None:
    assert load().cuda_release["12.2"].driver == "535.104.05"


@pytest.mark.parametrize(
    ("version", "machine", "build", "compute", "runs"),
    [
        ("2.15.0", "x86_64", "cu132", "7.0", False),
        ("2.14.1", "x86_64", "cu126", "7.0", True),
        ("2.14.1", "x86_64", "cu126", "10.0", False),
        ("2.10.0", "x86_64", "cu128", "7.0", True),
        ("2.11.0", "aarch64", "cu130", "9.0", True),
        ("2.11.0", "aarch64", "cu130", "8.9", True),  # by its 8.0 code
        ("2.15.0", "aarch64", "cu132", "7.5", False),
        ("2.15.0", "aarch64", "cu132", "10.3", True),
    ],
)
def test_builds_hold_code_for(
    version: str, machine: str, build: str, compute: str, runs: bool
) -> None:
    row = next(row for row in load().torch if row.version == version)
    found = next(one for one in row.builds if (one.machine, one.build) == (machine, build))
    assert found.runs_on(compute) == runs


def test_arm_wheels_of_the_default_index_have_cuda_from_2_11_on() -> None:
    for row in load().torch:
        assert ("aarch64" in row.cpu_wheel) == (numbers(row.version) < (2, 11)), row.version


CLAIMED = """
    V100 T4 T4G A100 A800 A30 A40 A10 A10G A16 A2 L4 L40 L40S L20 L2
    H100 H200 H800 H20 GH200 B200 B300 GB200 GB300 GB10
"""


@pytest.mark.parametrize("name", CLAIMED.split())
def test_the_part_is_known(name: str) -> None:
    assert any(name in row.name.replace("/", " ").split() for row in load().gpus)


@pytest.mark.parametrize(
    ("family", "architecture", "least"),
    [
        ("GeForce RTX 20", "turing", 8),
        ("Quadro RTX", "turing", 5),
        ("GeForce RTX 30", "ampere", 15),
        ("RTX A", "ampere", 10),
        ("GeForce RTX 40", "ada", 10),
        ("Ada Generation", "ada", 6),
        ("GeForce RTX 50", "blackwell", 10),
        ("RTX PRO", "blackwell", 10),
    ],
)
def test_the_family_of_workstation_parts_is_known(
    family: str, architecture: str, least: int
) -> None:
    found = [row for row in load().gpus if family in row.name and row.architecture == architecture]
    assert len(found) >= least
