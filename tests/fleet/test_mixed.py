"""One inventory of hosts of every kind and system: each gets its own stack, one has none.

Nothing is installed here: test_el.py and test_ubuntu.py do that, and the other modules for Debian.
"""

from __future__ import annotations

from typing import Any

import pytest

from tests.fleet.lab import Lab
from tests.fleet.live import LiveFleet

pytestmark = pytest.mark.fleet

IMPOSSIBLE = "odd-01"
STACKS = {
    # distribution, driver version and flavour, fabric manager, CUDA, what the hardware chooses
    "h100-01": ("debian12", "580.178.04", "open", "580.178.04", "13.0", "cu130"),
    "l40s-01": ("debian12", "580.178.04", "open", None, "13.0", "cu130"),
    "v100-01": ("debian12", "580.178.04", "closed", None, "12.9", "cu126"),
    "cpu-01": ("debian12", None, None, None, None, ""),
    "el-01": ("rhel9", "580.178.04", "open", None, "13.0", "cu130"),
    "ubuntu-01": ("ubuntu2404", "580.178.04", "open", "580.178.04", "13.0", "cu130"),
}


@pytest.fixture(scope="module")
def lab(mixed: LiveFleet, tmp_path_factory: pytest.TempPathFactory) -> Lab:
    """Every node bare; the CPU build of torch is asked for, as no GPU here could run another."""
    mixed.restore()
    made = Lab(mixed, tmp_path_factory.mktemp("lab"))
    index = f"{mixed.document['wheels_by_build_url']}/cpu"
    wish = {"torch": "2.13.0", "torch_build": "cpu", "torch_index": index}
    made.wish({name: wish for name in mixed.nodes})
    done = made.run("lock")
    assert done.status == 1, done  # one host has no stack
    return made


def told(stack: dict[str, Any]) -> tuple[str | None, ...]:
    """What STACKS has of a locked stack."""
    driver, fabric, cuda = stack["driver"], stack["fabric"], stack["cuda"]
    return (
        stack["distribution"],
        driver and driver["version"],
        driver and driver["flavour"],
        fabric and fabric["version"],
        cuda and cuda["version"],
        stack["environment"]["hardware_build"],
    )


def test_each_host_is_locked_to_its_own_stack(lab: Lab) -> None:
    stacks = lab.stacks()
    assert {name: told(stack) for name, stack in stacks.items()} == STACKS
    assert stacks["el-01"]["packaging"] == "dnf"
    assert stacks["el-01"]["driver"]["stream"] == "nvidia-driver:580-open"
    versions = {
        name: pin["version"]
        for host in ("l40s-01", "ubuntu-01", "el-01")
        for name, pin in stacks[host]["driver"]["packages"].items()
    }
    assert versions["nvidia-kernel-open-dkms"] == "580.178.04-1"
    assert versions["nvidia-dkms-580-open"] == "580.178.04-1ubuntu1"
    assert versions["kmod-nvidia-open-dkms"] == "3:580.178.04-1.el9"
    keys = {stacks[host]["repository"]["key_fingerprint"] for host in ("l40s-01", "el-01")}
    assert len(keys) == 2


def test_the_plan_shows_all_of_it_and_one_block_with_its_reason(lab: Lab) -> None:
    shown = lab.run("plan")
    assert shown.status == 1, shown
    assert "change 6, blocked 1" in shown.out
    plans = lab.planned()
    blocked = {name: plan["blocked"] for name, plan in plans.items() if plan["blocked"]}
    assert set(blocked) == {IMPOSSIBLE}
    reason = blocked[IMPOSSIBLE]
    for words in ("V100", "B200", "closed", "open"):
        assert words in reason["reason"]
    assert reason["unblock"]
    assert reason["reason"] in " ".join(shown.out.split())
    explained = lab.run("plan", "--explain", "v100-01").out
    assert "cu126" in explained


def test_two_locks_are_the_same_bytes(lab: Lab) -> None:
    first = lab.lock.read_bytes()
    lab.run("lock")
    assert lab.lock.read_bytes() == first
    lab.lock.unlink()
    lab.run("lock")
    assert lab.lock.read_bytes() == first
