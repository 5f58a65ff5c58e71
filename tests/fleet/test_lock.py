"""Locks of real nodes: solved through a node's own apt, which is left as it was."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.fleet.live import LiveFleet, Result, command
from tests.fleet.served import months
from tests.sim import paths

pytestmark = pytest.mark.fleet

TRACES = (
    "find /etc/apt /var/lib/apt /var/cache/apt /var/lib/dpkg /usr/share/keyrings "
    "-printf '%p %s %T@\\n' | sort | sha256sum; ls -A /tmp | grep gpufleet || true"
)
"""Digest of everything that belongs to apt on a node, and what is left in /tmp of ours."""


class Lab:
    """A user's folder with an inventory of nodes."""

    def __init__(self, fleet: LiveFleet, folder: Path) -> None:
        self.fleet = fleet
        self.inventory = folder / "lab.py"
        self.lock = folder / "lab.lock"
        self.hosts: dict[str, dict[str, Any]] = {}

    def write(self, **common: Any) -> None:
        base = {
            "ssh_config_file": str(self.fleet.ssh_config),
            "ssh_known_hosts_file": str(self.fleet.directory / "known_hosts"),
            "vendor_repository": self.fleet.vendor_url,
            "vendor_key_fingerprint": self.fleet.vendor_key_fingerprint,
            "torch": "none",
        }
        hosts = [(name, {**base, **common, **wish}) for name, wish in self.hosts.items()]
        self.inventory.write_text(f"gpus = {hosts!r}\n")

    def run(self, *words: str) -> Result:
        return command(
            *(sys.executable, "-m", "deploy.cli", words[0], str(self.inventory), *words[1:]),
            timeout=300,
            PYTHONPATH=str(paths.REPOSITORY),
        )

    def stacks(self) -> dict[str, dict[str, Any]]:
        content = json.loads(self.lock.read_text())
        return {name: content["stacks"][one["stack"]] for name, one in content["hosts"].items()}


@pytest.fixture
def lab(fleet: LiveFleet, tmp_path: Path) -> Iterator[Lab]:
    """All nodes of the fleet; their apt must be as it was when a test ends."""
    made = Lab(fleet, tmp_path)
    made.hosts = {name: {} for name in fleet.nodes}
    before = {name: fleet.root(name, TRACES).ok() for name in fleet.nodes}
    made.write()
    yield made
    assert {name: fleet.root(name, TRACES).ok() for name in fleet.nodes} == before


def test_bare_nodes_are_locked_and_nothing_on_them_changes(lab: Lab) -> None:
    done = lab.run("lock")
    assert done.status == 0, done
    stacks = lab.stacks()
    assert stacks["cpu-01"]["driver"] is None
    assert stacks["cpu-01"]["repository"] is None
    told = {
        name: (stack["driver"]["version"], stack["driver"]["flavour"], stack["cuda"]["version"])
        for name, stack in stacks.items()
        if stack["driver"]
    }
    assert told == {
        "h100-01": ("580.178.04", "open", "13.0"),
        "l40s-01": ("580.178.04", "open", "13.0"),
        "v100-01": ("580.178.04", "closed", "12.9"),
    }
    assert stacks["h100-01"]["fabric"]["version"] == "580.178.04"
    assert stacks["l40s-01"]["fabric"] is None
    assert stacks["v100-01"]["repository"]["key_fingerprint"] == lab.fleet.vendor_key_fingerprint
    assert all(pin["size"] > 0 for pin in stacks["v100-01"]["driver"]["packages"].values())


def test_two_locks_are_the_same_bytes(lab: Lab) -> None:
    assert lab.run("lock").status == 0
    first = lab.lock.read_bytes()
    again = lab.run("lock")
    assert again.status == 0
    assert "nothing changed" in again.out
    assert lab.lock.read_bytes() == first
    assert lab.run("lock", "--upgrade").status == 0
    assert lab.lock.read_bytes() == first
    lab.lock.unlink()
    assert lab.run("lock").status == 0
    assert lab.lock.read_bytes() == first


def test_a_real_environment_is_locked_from_the_fleets_own_index(lab: Lab) -> None:
    lab.hosts = {"l40s-01": {}, "cpu-01": {}}
    wheels = f"{lab.fleet.document['wheels_by_build_url']}/cpu"
    lab.write(torch="2.13.0", torch_build="cpu", torch_index=wheels)
    done = lab.run("lock")
    assert done.status == 0, done
    environments = {name: stack["environment"] for name, stack in lab.stacks().items()}
    assert environments["l40s-01"]["hardware_build"] == "cu130"
    assert environments["cpu-01"]["hardware_build"] == ""
    for one in environments.values():
        assert one["build"] == "cpu"
        assert any(line.startswith("torch==2.13.0+cpu --hash=") for line in one["requirements"])
    assert "nvidia-ml-py" in " ".join(environments["l40s-01"]["requirements"])


def test_a_repository_with_the_wrong_key_blocks_who_needs_it_and_nobody_else(lab: Lab) -> None:
    lab.write(vendor_key_fingerprint="A" * 40)
    done = lab.run("lock")
    assert done.status == 1
    assert f"the key is {lab.fleet.vendor_key_fingerprint}, wanted {'A' * 40}" in done.out
    assert set(lab.stacks()) == {"cpu-01"}


def test_a_repository_that_is_not_there_is_said(lab: Lab) -> None:
    lab.hosts = {"v100-01": {}}
    lab.write(vendor_repository=f"{lab.fleet.vendor_url}-none")
    done = lab.run("lock")
    assert done.status == 1
    assert "there is nothing at this address" in done.out


def test_a_node_that_is_down_keeps_its_stack(lab: Lab) -> None:
    assert lab.run("lock").status == 0
    first = lab.lock.read_bytes()
    lab.hosts["v100-01"]["ssh_port"] = 9  # nobody listens there
    lab.write()
    done = lab.run("lock", "--upgrade")
    assert done.status == 4
    assert "v100-01" in done.out
    assert "stays as it was locked" in done.out
    assert lab.lock.read_bytes() == first


def test_a_bare_node_is_not_adopted(lab: Lab) -> None:
    lab.hosts = {"l40s-01": {}, "cpu-01": {}}
    lab.write()
    done = lab.run("adopt")
    assert done.status == 1
    assert "l40s-01: no driver stands" in done.out
    assert set(lab.stacks()) == {"cpu-01"}


def test_the_temporary_folder_of_a_node_may_be_full_of_others(lab: Lab) -> None:
    """The script's own directory is private and gone at the end, whatever else is there."""
    node = "l40s-01"
    lab.fleet.root(node, "mkdir -m 700 /tmp/gpufleet-other").ok()
    try:
        lab.hosts = {node: {}}
        lab.write()
        assert lab.run("lock").status == 0
        assert lab.fleet.root(node, "ls -A /tmp | grep gpufleet").ok().split() == ["gpufleet-other"]
    finally:
        lab.fleet.root(node, "rmdir /tmp/gpufleet-other").ok()


def test_nodes_of_different_months_are_equal_until_the_lock_moves(
    pristine: LiveFleet, tmp_path: Path
) -> None:
    """One lock, two months of the vendor's repository; then parts move by name, a version that is
    gone is said before anything changes, and what stands is adopted."""
    lab = Lab(pristine, tmp_path)
    lab.hosts = {"h100-01": {}, "v100-01": {}}
    with months(pristine, tmp_path) as repository:
        repository.show("580.178.04", "9.26.0.51", "2.30.7")
        lab.write(vendor_repository=repository.url, policy="lts")
        assert lab.run("lock").status == 0
        first = lab.lock.read_bytes()
        applied = lab.run("apply", "--yes", "--reboot", "--limit", "h100-01")
        assert applied.status == 0, applied

        repository.show()  # months later there is more
        again = lab.run("lock")
        assert "nothing changed" in again.out, again
        assert lab.lock.read_bytes() == first
        applied = lab.run("apply", "--yes", "--reboot", "--limit", "v100-01")
        assert applied.status == 0, applied
        assert pending(lab) == {"h100-01": [], "v100-01": []}
        assert driver_of(pristine, "h100-01") == driver_of(pristine, "v100-01") == "580.159.04-1"

        moved = lab.run("lock", "--upgrade", "nccl")
        assert moved.status == 0, moved
        assert "nccl 2.29.7 -> 2.30.7; 2 packages" in moved.out
        assert "driver" not in moved.out
        layers = {step.partition(":")[0] for step in pending(lab)["h100-01"]}
        assert layers == {"nccl", "pins", "expected"}
        assert lab.run("apply", "--yes", "--no-reboot").status == 0
        assert pending(lab) == {"h100-01": [], "v100-01": []}
        solved = lab.stacks()
        wider = lab.run("lock", "--upgrade", "driver")
        assert "driver 580.159.04 -> 580.178.04" in wider.out, wider
        assert "the kernel module changes, 580.159.04 (open) -> 580.178.04 (open)" in wider.out

        lab.lock.write_bytes(first)
        repository.show("2.29.7")
        before = pristine.root("h100-01", TRACES).ok()
        gone = lab.run("apply", "--yes", "--limit", "h100-01")
        assert gone.status == 1, gone
        assert f"locked packages are gone from {repository.url}: libnccl-dev 2.29.7" in gone.out
        assert f"gpufleet lock {lab.inventory} --upgrade nccl" in gone.out
        assert pristine.root("h100-01", TRACES).ok() == before

        lab.lock.unlink()
        lab.write(vendor_repository=repository.url)
        adopted = lab.run("adopt")
        assert adopted.status == 0, adopted
        for name, stack in lab.stacks().items():
            for part in ("driver", "fabric", "cudnn", "nccl"):
                assert versions(stack[part]) == versions(solved[name][part]), (name, part)
            assert stack["cuda"]["version"] == solved[name]["cuda"]["version"]
            assert stack["repository"] is None
        # Only files of ours would be written, for the new stack's sake; all else is as wanted.
        for plan in json.loads(lab.run("plan", "--json").out)["hosts"].values():
            assert {step["layer"] for step in plan["steps"]} <= {"pins", "expected"}
            assert not any(step["disruptive"] for step in plan["steps"])
            assert plan["reboot"] is None


def pending(lab: Lab) -> dict[str, list[str]]:
    """What is left to do on every node."""
    hosts = json.loads(lab.run("plan", "--json").out)["hosts"]
    return {
        name: [f"{step['layer']}: {step['title']}" for step in plan["steps"]]
        for name, plan in hosts.items()
    }


def driver_of(live: LiveFleet, name: str) -> str:
    return live.root(name, "dpkg-query -W -f '${Version}' nvidia-driver-cuda").ok()


def versions(part: dict[str, Any] | None) -> dict[str, str]:
    packages = {**part.get("pinning", {}), **part["packages"]} if part else {}
    return {name: pin["version"] for name, pin in packages.items()}
