"""The vendor's repositories for Ubuntu and Enterprise Linux: names, relations, signatures."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from deploy.catalog import load
from deploy.catalog.systems import Distribution
from tests.sim.vendor import PLACES, VendorRepo, assemble, el
from tests.sim.vendor.rpm import Rpm
from tests.sim_vendor.conftest import KERNEL

BRANCHES = (580, 595)
OWN_BRANCHES = {"debian12": (535,), "ubuntu2404": (580,)}
"""Of drivers in a distribution's own archive."""
CUDA = {"major": "13", "minor": "0"}


def offered(system: str) -> set[str]:
    """Names of everything in a system's repositories."""
    place = PLACES[system]
    every = assemble.debs(KERNEL) | assemble.rpms(KERNEL)
    return {package.name for where in (place.cuda, place.extra) for package in every[where]}


def called(distribution: Distribution) -> set[str]:
    """Every name that the catalogue has for a distribution, of the branches that are simulated."""
    catalogue = load()
    names: set[str] = set()
    for origin in distribution.origins:
        for branch in BRANCHES if origin == "vendor" else OWN_BRANCHES[distribution.name]:
            row = catalogue.driver_names(distribution.name, origin, branch)
            assert row is not None, (distribution.name, origin, branch)
            names |= {row.pinning, row.module_open, row.module_closed}
            names |= {row.prebuilt_open, row.prebuilt_closed, *row.driver, *row.coherent}
            names |= {*row.fabric_nvswitch, *row.fabric_nvlink5, *row.imex}
    libraries = distribution.libraries
    for part in ("cuda", "cudnn", "nccl", "dcgm", "container_toolkit"):
        names |= {one.format(**CUDA) for one in getattr(libraries, part)}
    return {name.replace("{kernel}", KERNEL) for name in names if name}


@pytest.mark.parametrize("system", PLACES)
def test_every_name_of_the_catalogue_is_offered(system: str) -> None:
    missing = called(load().named(system)) - offered(system)
    assert missing == set()


def test_every_stream_of_the_catalogue_exists() -> None:
    catalogue = load()
    streams = set(re.findall(r"^  stream: (\S+)$", el.modules(), re.MULTILINE))
    for branch in BRANCHES:
        row = catalogue.driver_names("rhel9", "vendor", branch)
        assert row is not None
        for stream in (row.stream_open, row.stream_closed):
            assert stream.partition(":")[2] in streams


def test_the_drivers_of_enterprise_linux_have_an_epoch_and_fabric_manager_has_none() -> None:
    epochs: dict[str, set[int]] = {}
    for rpm in el.packages():
        epochs.setdefault(rpm.name, set()).add(rpm.epoch)
        if rpm.name == "nvidia-fabricmanager":
            assert rpm.requires == ()
    assert epochs["nvidia-driver-cuda"] == epochs["kmod-nvidia-open-dkms"] == {3}
    assert epochs["nvidia-fabricmanager"] == {0}
    assert epochs["datacenter-gpu-manager-4-core"] == {1}


def test_every_requirement_of_an_rpm_is_provided() -> None:
    every = [rpm for rpms in assemble.rpms(KERNEL).values() for rpm in rpms]
    names = {name for rpm in every for name in (rpm.name, *(p.split()[0] for p in rpm.provides))}
    for rpm in every:
        assert {one.split()[0] for one in rpm.requires} <= names, rpm.nevra


def test_the_index_of_rpms_is_the_catalogue_and_signed(
    repository: VendorRepo, tmp_path: Path
) -> None:
    for place, wanted in assemble.rpms(KERNEL).items():
        directory = repository.root / place
        files = sorted(directory.glob("*.rpm"))
        assert len(files) == len(wanted)
        asked = ["rpm", "-qp", "--qf", r"%{NAME}-%{EPOCHNUM}:%{VERSION}-%{RELEASE}.%{ARCH}\n"]
        listed = run(*asked, "--nosignature", *map(str, files)).split()
        assert set(listed) == {rpm.nevra for rpm in wanted}
        key = repository.key_of("rhel9")
        if place != PLACES["rhel9"].cuda:
            key = repository.root / PLACES["rhel9"].extra_key
        database = tmp_path / place.replace("/", "-")
        run("rpm", "--dbpath", str(database), "--import", str(key))
        checked = run("rpm", "--dbpath", str(database), "-K", *map(str, files)).splitlines()
        assert len(checked) == len(files)
        assert all(line.endswith("digests signatures OK") for line in checked)


def test_the_two_keys_of_rpms_are_not_one(repository: VendorRepo) -> None:
    own = (repository.root / PLACES["rhel9"].extra_key).read_text()
    assert own != repository.key_of("rhel9").read_text()
    assert repository.fingerprints["rhel9"] != repository.fingerprints["debian12"]


@pytest.mark.parametrize("system", PLACES)
def test_the_earlier_repository_lacks_the_newest_drivers_only(
    repository: VendorRepo, system: str
) -> None:
    place = PLACES[system].cuda
    now, before = (
        {file.name for file in (repository.root / where / place).glob("*.[dr][ep][bm]")}
        for where in ("", assemble.EARLIER)
    )
    assert before == {name for name in now if not any(v in name for v in assemble.NEWEST)}
    assert len(before) < len(now)


def test_an_rpm_is_what_its_deb_is() -> None:
    rpms = {rpm.name: rpm for rpm in el.packages()}
    dev: Rpm = rpms["libcudnn9-devel-cuda-13"]
    assert dev.requires == (
        f"libcudnn9-cuda-13 = {dev.version}-1",
        f"libcudnn9-headers-cuda-13 = {dev.version}-1",
    )
    assert list(dev.payload) == ["/usr/lib64/libcudnn/13/libcudnn.so"]
    assert rpms["libnccl"].release == "1+cuda13.0"
    assert rpms["datacenter-gpu-manager-4-cuda13"].requires == (
        "datacenter-gpu-manager-4-core = 1:4.5.2-1",
    )


def run(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout
