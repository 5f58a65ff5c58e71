"""A node labelled Ubuntu 24.04, by gpufleet's own commands: the vendor's names and Ubuntu's own.

apt, dpkg and everything around them are real; what says Ubuntu are the node's os-release and the
names and versions in its repositories.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fleet.lab import DRIVER_ONLY, Lab, moving
from tests.fleet.live import LiveFleet

pytestmark = pytest.mark.fleet

NODE = "ubuntu-01"
OLD, NEW, NEXT = "580.159.04", "580.178.04", "595.91.07"


@pytest.fixture(scope="module", autouse=True)
def _restored(mixed: LiveFleet) -> None:
    mixed.restore(NODE)


@pytest.fixture
def lab(mixed: LiveFleet, tmp_path: Path) -> Iterator[Lab]:
    """The node as the test before left it, or bare: each test says what it wants."""
    return Lab(mixed, tmp_path)


def installed(lab: Lab, pattern: str) -> dict[str, str]:
    """Versions of the installed packages whose names match."""
    listed = lab.fleet.root(
        NODE, r"dpkg-query -W -f '${db:Status-Abbrev}\t${Package}\t${Version}\n'"
    ).ok()
    rows = [line.split("\t") for line in listed.splitlines()]
    return {n: v for state, n, v in rows if state[1] == "i" and re.fullmatch(pattern, n)}


def test_a_bare_host_converges_and_the_second_apply_executes_nothing(lab: Lab) -> None:
    lab.wish({NODE: {}})
    lab.converge()
    assert lab.driver(NODE) == (NEW, "open")
    names = installed(lab, r".*nvidia.*")
    assert names["libnvidia-compute-580"] == f"{NEW}-1ubuntu1"
    assert names["nvidia-dkms-580-open"] == f"{NEW}-1ubuntu1"
    services = lab.facts(NODE)["services"]
    assert services["nvidia-fabricmanager.service"]["active"] == "active"
    marks = "stat -c %Y /var/log/dpkg.log; wc -l </var/lib/gpufleet/journal.jsonl"
    before = lab.fleet.root(NODE, marks).ok()
    again = lab.apply()
    assert again.status == 0, again
    assert "0 changes; 1 unchanged" in again.out
    assert lab.fleet.root(NODE, marks).ok() == before


def test_names_change_with_the_branch_and_a_hold_stays(lab: Lab) -> None:
    """Up to 580 the packages carry the branch in their names, from 590 on they do not."""
    for version, flavour in ((NEXT, "open"), (OLD, "closed")):
        lab.wish({NODE: {"driver": version, "driver_modules": flavour, **DRIVER_ONLY}})
        lab.converge()
        assert lab.driver(NODE) == (version, flavour)
        branch = version.partition(".")[0]
        ending = "-580" if branch == "580" else ""
        assert set(installed(lab, r"libnvidia-compute.*|nvidia-dkms.*|.*-driver-pinning.*")) == {
            f"libnvidia-compute{ending}",
            f"nvidia-dkms{ending}" + ("-open" if flavour == "open" else ""),
            f"nvidia-driver-pinning-{branch}",
        }
    lab.fleet.root(NODE, "apt-mark hold libnvidia-compute-580").ok()
    lab.wish({NODE: {"driver": NEW, "driver_modules": "open", **DRIVER_ONLY}})
    lab.converge()
    assert lab.driver(NODE) == (NEW, "open")
    assert "libnvidia-compute-580" in lab.fleet.root(NODE, "apt-mark showhold").ok().split()


def test_a_bumped_repository_changes_nothing_until_the_lock_is_upgraded(
    mixed: LiveFleet, tmp_path: Path
) -> None:
    mixed.restore(NODE)
    lab = Lab(mixed, tmp_path)
    with moving(mixed, "ubuntu2404", tmp_path / "web") as repository:
        lab.wish({NODE: {"vendor_repository": repository.url, "policy": "lts", **DRIVER_ONLY}})
        lab.converge()
        assert lab.driver(NODE) == (OLD, "open")
        locked = lab.lock.read_bytes()
        repository.bump()
        mixed.root(NODE, "apt-get -q update").ok()
        assert "0 changes; 1 unchanged" in lab.apply().out
        assert lab.run("lock").status == 0
        assert lab.lock.read_bytes() == locked
        moved = lab.run("lock", "--upgrade", "driver").ok()
        assert OLD in moved
        assert NEW in moved
        lab.converge()
        assert lab.driver(NODE) == (NEW, "open")


def test_under_secure_boot_the_driver_is_ubuntus_own_signed_one(
    mixed: LiveFleet, tmp_path: Path
) -> None:
    mixed.restore(NODE)
    lab = Lab(mixed, tmp_path)
    with mixed.broken(NODE, "secure-boot"):
        lab.wish({NODE: DRIVER_ONLY})
        lab.converge()
        driver = lab.stacks()[NODE]["driver"]
        assert driver["origin"] == "distribution"
        assert driver["version"] == OLD
        assert lab.driver(NODE) == (OLD, "open")
        kernel = lab.facts(NODE)["kernel"]["running"]
        assert f"linux-modules-nvidia-580-server-open-{kernel}" in installed(lab, r"linux-mod.*")
        assert not installed(lab, r"dkms|nvidia-dkms.*")
        services = lab.facts(NODE)["services"]
        assert services["nvidia-fabricmanager.service"]["active"] == "active"
