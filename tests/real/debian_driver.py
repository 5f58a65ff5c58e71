"""Debian's own NVIDIA driver, the real one, on a simulated node: `make test-real`.

gpufleet solves and locks it from Debian's non-free archive (origin "distribution"), exactly the
locked packages are installed, and DKMS compiles the real modules for Debian's own kernel. They are
only looked at: nothing here runs that kernel or has the GPU. apply has no place in this: it builds
for the kernel that runs, for which the simulation has headers in name only.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.fleet.live import PYTHON, LiveFleet, command, sim
from tests.sim import paths

NODE = "real-01"
MODULES = {
    "nvidia-current": "NVIDIA",
    "nvidia-current-modeset": "NVIDIA",
    "nvidia-current-uvm": "Dual MIT/GPL",
}
"""Debian's file names of the modules nvidia, nvidia-modeset and nvidia-uvm, and their licences."""
MINUTES = 45

NON_FREE = """\
rm -f /etc/apt/sources.list.d/sim-extra.sources
sed -i 's/^Components:.*/Components: main contrib non-free non-free-firmware/' \\
    /etc/apt/sources.list.d/debian.sources
apt-get -q update
apt-get -q -y --no-install-recommends install linux-headers-amd64
"""
"""A Debian host with non-free enabled and the headers of Debian's kernel; nothing of ours."""


@pytest.fixture(scope="module")
def fleet() -> Iterator[LiveFleet]:
    """One node, the only one of its fleet."""
    name = os.environ.get("GPUFLEET_SIM_FLEET", "real")
    sim("up", "--fleet", name, "--nodes", f"{NODE}:l40s", timeout=900).ok()
    try:
        yield LiveFleet(name)
    finally:
        sim("down", "--fleet", name)


@pytest.fixture(scope="module")
def stack(fleet: LiveFleet, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What gpufleet locks for the node from Debian's archive."""
    fleet.root(NODE, f"set -e\n{NON_FREE}", timeout=600).ok()
    folder = tmp_path_factory.mktemp("lab")
    inventory = folder / "lab.py"
    spec = {
        "ssh_config_file": str(fleet.ssh_config),
        "ssh_known_hosts_file": str(fleet.directory / "known_hosts"),
        "vendor_repository": fleet.vendor_url,  # is asked, too, and not taken
        "vendor_key_fingerprint": fleet.vendor_key_fingerprint,
        "origin": "distribution",
        "driver_modules": "closed",
        "cuda": "none",
        "cudnn": "none",
        "nccl": "none",
        "torch": "none",
    }
    inventory.write_text(f"gpus = [({NODE!r}, {spec!r})]\n")
    cli = (PYTHON, "-m", "deploy.cli", "lock", str(inventory))
    command(*cli, timeout=300, PYTHONPATH=str(paths.REPOSITORY)).ok()
    content = json.loads((folder / "lab.lock").read_text())
    found: dict[str, Any] = content["stacks"][content["hosts"][NODE]["stack"]]
    return found


def test_the_lock_names_debians_own_driver(stack: dict[str, Any]) -> None:
    driver = stack["driver"]
    assert driver["origin"] == "distribution"
    assert driver["flavour"] == "closed"
    assert re.fullmatch(r"535\.\d+\.\d+", driver["version"])
    assert "nvidia-kernel-dkms" in driver["packages"]
    for name in ("nvidia-kernel-dkms", "libcuda1", "nvidia-smi"):
        full = driver["packages"][name]["version"]
        assert re.fullmatch(rf"{re.escape(driver['version'])}-.*deb12u\d+", full), full


def test_the_real_modules_are_built_for_the_installed_kernel(
    fleet: LiveFleet, stack: dict[str, Any]
) -> None:
    driver = stack["driver"]
    pins = " ".join(f"{name}={pin['version']}" for name, pin in driver["packages"].items())
    install = "DEBIAN_FRONTEND=noninteractive apt-get -q -y --no-install-recommends install"
    fleet.root(NODE, f"{install} {pins}", timeout=900).ok()
    release = fleet.root(NODE, "cd /usr/src; ls -d linux-headers-*-amd64").ok().strip()
    release = release.removeprefix("linux-headers-")
    begun = time.monotonic()
    # What Debian's dkms does when a kernel's headers arrive.
    fleet.root(NODE, f"dkms autoinstall -k {release}", timeout=60 * MINUTES).ok()
    print(f"\n{driver['version']} for {release}: compiled in {time.monotonic() - begun:.0f} s")
    for module, licence in MODULES.items():
        found = information(fleet, f"/lib/modules/{release}/updates/dkms/{module}.ko")
        print(f"{module}.ko {found['version']} ({found['license']}), {found['size']} bytes")
        assert found["vermagic"].split()[0] == release
        assert found["license"] == licence
        assert found["version"] == driver["version"]
        assert int(found["size"]) > 100_000


def information(fleet: LiveFleet, file: str) -> dict[str, str]:
    """What modinfo says of one module file, and its size in bytes."""
    told = fleet.root(NODE, f"set -e\n/sbin/modinfo {file}; echo size: $(stat -c %s {file})").ok()
    return dict(re.findall(r"^(\w+): *(.*)$", told, re.MULTILINE))
