"""A node labelled Enterprise Linux 9, by gpufleet's own commands: rpm, dnf 4, module streams.

dnf, rpm, signatures, streams and versionlock are real, and the node has neither apt nor dpkg; what
the packages hold is simulated, and compilers and Python are the Debian's underneath.
"""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest

from tests.fleet.lab import DRIVER_ONLY, Lab, moving
from tests.fleet.live import LiveFleet

pytestmark = pytest.mark.fleet

NODE = "el-01"
OLD, NEW, NEXT = "580.159.04", "580.178.04", "595.91.07"
LOCKS = "/etc/dnf/plugins/versionlock.list"


@pytest.fixture(scope="module", autouse=True)
def _restored(mixed: LiveFleet) -> None:
    mixed.restore(NODE)


@pytest.fixture
def lab(mixed: LiveFleet, tmp_path: Path) -> Lab:
    """The node as the test before left it, or bare: each test says what it wants."""
    return Lab(mixed, tmp_path)


def installed(lab: Lab, pattern: str) -> dict[str, list[str]]:
    """Every installed version of the packages whose names match."""
    found: dict[str, list[str]] = {}
    for line in lab.fleet.root(NODE, r"rpm -qa --qf '%{NAME}\t%{EVR}\n'").ok().splitlines():
        name, version = line.split("\t")
        if re.fullmatch(pattern, name):
            found.setdefault(name, []).append(version)
    return found


def stream(lab: Lab) -> str:
    """The stream of nvidia-driver that dnf has enabled."""
    listed = lab.fleet.root(NODE, "cat /etc/dnf/modules.d/nvidia-driver.module").ok()
    assert "state=enabled" in listed
    return re.search(r"^stream=(.*)$", listed, re.MULTILINE)[1]  # type: ignore[index]


def test_a_bare_host_converges_and_the_second_apply_executes_nothing(lab: Lab) -> None:
    wheels = f"{lab.fleet.document['wheels_by_build_url']}/cpu"
    lab.wish({NODE: {"torch": "2.13.0", "torch_build": "cpu", "torch_index": wheels}})
    lab.converge()
    assert lab.driver(NODE) == (NEW, "open")
    assert stream(lab) == "580-open"
    found = installed(lab, r"kmod-nvidia.*|nvidia-driver-cuda|dkms|kernel-devel.*|libcudnn9-.*")
    assert found["kmod-nvidia-open-dkms"] == found["nvidia-driver-cuda"] == [f"3:{NEW}-1.el9"]
    assert {"dkms", "libcudnn9-devel-cuda-13"} <= set(found)
    assert [name for name in found if name.startswith("kernel-devel-")]
    assert lab.facts(NODE)["services"]["nvidia-persistenced.service"]["active"] == "active"
    marks = (
        "stat -c %Y /var/lib/rpm/rpmdb.sqlite /etc/dnf/modules.d/*; dnf -q history list | wc -l; "
        "wc -l </var/lib/gpufleet/journal.jsonl"
    )
    before = lab.fleet.root(NODE, marks).ok()
    again = lab.apply()
    assert again.status == 0, again
    assert "0 changes; 1 unchanged" in again.out
    assert lab.fleet.root(NODE, marks).ok() == before


def test_a_killed_downgrade_is_healed_by_the_next_run(lab: Lab) -> None:
    """kill -9 of dnf between the new packages' installation and the old ones' removal."""
    lab.wish({NODE: {"driver": NEW, **DRIVER_ONLY}})
    lab.converge()
    lab.wish({NODE: {"driver": OLD, **DRIVER_ONLY}})
    with lab.fleet.broken(NODE, "dkms-slow:30"):
        running = lab.start("apply", "--yes", "--reboot")
        wait_for(lab, "pgrep -f '[d]kms build'")
        lab.fleet.root(NODE, "pkill -9 -x dnf; pkill -9 -f '[d]kms build'; sleep 1").ok()
        out, err = running.communicate(timeout=300)
        assert running.returncode == 1, out + err
    torn = installed(lab, r"libnvidia-ml|nvidia-driver-cuda.*|kmod-nvidia-open-dkms")
    assert any(len(versions) > 1 for versions in torn.values()), torn
    lab.converge()
    assert lab.driver(NODE) == (OLD, "open")
    for name, versions in installed(lab, r".*nvidia.*").items():
        assert len(versions) == 1, (name, versions)


def test_a_build_that_failed_is_named_though_rpm_says_nothing_of_it(lab: Lab) -> None:
    """On this system the scriptlet's failure does not fail the transaction, here an upgrade."""
    lab.wish({NODE: {"driver": NEW, **DRIVER_ONLY}})
    with lab.fleet.broken(NODE, "dkms-fails"):
        done = lab.apply()
        assert done.status == 1, done.out
        assert "modules" in done.out
    lab.converge()
    assert lab.driver(NODE) == (NEW, "open")


def test_branch_and_flavour_change_with_the_stream(lab: Lab) -> None:
    for version, flavour, wanted in ((NEXT, "open", "595-open"), (NEW, "closed", "580-dkms")):
        lab.wish({NODE: {"driver": version, "driver_modules": flavour, **DRIVER_ONLY}})
        lab.converge()
        assert lab.driver(NODE) == (version, flavour)
        assert stream(lab) == wanted
        kmod = "kmod-nvidia-open-dkms" if flavour == "open" else "kmod-nvidia-latest-dkms"
        assert installed(lab, r"kmod-nvidia-.*dkms") == {kmod: [f"3:{version}-1.el9"]}


def test_an_operators_locks_stay_as_they_are(lab: Lab) -> None:
    lab.wish({NODE: {"driver": NEW, "driver_modules": "closed", **DRIVER_ONLY}})
    lab.converge()
    with lab.fleet.broken(NODE, "held-package:libnvidia-ml"):
        lab.wish({NODE: {"driver": OLD, "driver_modules": "closed", **DRIVER_ONLY}})
        lab.converge()
        assert lab.driver(NODE) == (OLD, "closed")
        entries = lab.fleet.root(NODE, f"cat {LOCKS}").ok().splitlines()
        assert f"libnvidia-ml-3:{NEW}-1.el9.*" in entries


def test_the_next_kernel_gets_its_modules_too(lab: Lab) -> None:
    lab.fleet.fault(NODE, "next-kernel")
    lab.wish({NODE: {"driver": OLD, "driver_modules": "closed", **DRIVER_ONLY}})
    lab.converge()
    facts = lab.facts(NODE)
    assert facts["kernel"]["next"] == facts["kernel"]["running"] + "+next"
    built = lab.fleet.root(NODE, "dkms status").ok().splitlines()
    assert [line.split(":")[1].strip() for line in built] == ["installed", "installed"], built


def test_a_bumped_repository_changes_nothing_until_the_lock_is_upgraded(
    mixed: LiveFleet, tmp_path: Path
) -> None:
    mixed.restore(NODE)
    lab = Lab(mixed, tmp_path)
    with moving(mixed, "rhel9", tmp_path / "web") as repository:
        lab.wish({NODE: {"vendor_repository": repository.url, "policy": "lts", **DRIVER_ONLY}})
        lab.converge()
        assert lab.driver(NODE) == (OLD, "open")
        locked = lab.lock.read_bytes()
        repository.bump()
        mixed.root(NODE, "dnf -q --refresh makecache").ok()
        assert "0 changes; 1 unchanged" in lab.apply().out
        assert lab.run("lock").status == 0
        assert lab.lock.read_bytes() == locked
        # What everybody's own `dnf upgrade` would do to the driver: nothing, ours is locked.
        mixed.root(NODE, "dnf -q -y upgrade").ok()
        assert lab.run("plan", "--check").status == 0
        moved = lab.run("lock", "--upgrade", "driver").ok()
        assert OLD in moved
        assert NEW in moved
        lab.converge()
        assert lab.driver(NODE) == (NEW, "open")


def wait_for(lab: Lab, test: str, deadline_s: float = 120) -> None:
    """Until a command succeeds on the node."""
    end = time.monotonic() + deadline_s
    while lab.fleet.root(NODE, test).status != 0:
        assert time.monotonic() < end, f"{test} did not come true within {deadline_s} s"
        time.sleep(0.2)
