"""Optional layers and settings on one node: applied, kept over a boot, and left out again.

Power limits, ECC, MIG, module parameters and CDI are the simulated driver's; packages, services,
units, limits and the boot are real.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from deploy.fleet.spec import NodeSpec
from deploy.plan_reboot import reboot_due
from deploy.removal import look, remove
from deploy.stack import Component, PackagePin
from tests.fleet.live import LiveFleet
from tests.fleet.thin import Node, node

pytestmark = pytest.mark.fleet

NEW = "580.178.04"
BASE = {"driver": NEW, "cuda": "none", "cudnn": "none", "nccl": "none"}
HALF = ("3g.40gb", "3g.40gb")
EVERYTHING = {
    **BASE,
    "dcgm": "latest",
    "container_toolkit": "latest",
    "power_limit": 500,
    "ecc": False,
    "mig": HALF,
    "module_options": ("NVreg_EnableStreamMemOPs=1",),
    "memlock": "unlimited",
}


@pytest.fixture
def h100(fleet: LiveFleet) -> Iterator[Node]:
    fleet.restore("h100-01")
    one = node(fleet, "h100-01")
    try:
        yield one
    finally:
        one.connection.close()


def again(one: Node) -> Node:
    """The same node after a boot."""
    one.connection.close()
    one.live.reboot(one.name)
    one.connection = node(one.live, one.name).connection
    return one


def smi(one: Node, fields: str) -> list[str]:
    asked = f"nvidia-smi --query-gpu={fields} --format=csv,noheader"
    return sorted(set(one.root(asked).splitlines()))


@contextmanager
def slow_tool(one: Node) -> Iterator[None]:
    """nvidia-smi that takes its time, with a GPU open."""
    one.root(
        "mv /usr/bin/nvidia-smi /usr/bin/nvidia-smi.real\n"
        "printf '#!/bin/sh\\nexec 9</dev/nvidia0\\nsleep 2\\n' >/usr/bin/nvidia-smi\n"
        "echo 'exec /usr/bin/nvidia-smi.real \"$@\"' >>/usr/bin/nvidia-smi\n"
        "chmod 755 /usr/bin/nvidia-smi"
    )
    try:
        yield
    finally:
        one.root("mv /usr/bin/nvidia-smi.real /usr/bin/nvidia-smi")


def lockable_memory(one: Node) -> None:
    """A service that starts now and a session that begins now get what is wished, as far as the
    machine lets a node raise limits at all."""
    assert "infinity" in one.root("systemctl show -p DefaultLimitMEMLOCK")
    session = one.live.ssh(one.name, "ulimit -l; ulimit -Hl").out.split()
    if (
        one.root("prlimit --memlock=unlimited true 2>/dev/null && echo may || echo may not")
        == "may\n"
    ):
        service = one.root("systemd-run -q --wait --pipe sh -c 'ulimit -l'").strip()
        assert [*session, service] == ["unlimited"] * 3
    else:
        tried = "Could not set limit for 'memlock' to soft=-1, hard=-1"
        assert tried in one.root("journalctl -q --no-pager -n 200")


def test_all_of_it_is_applied_kept_over_a_boot_and_left_out_again(h100: Node) -> None:
    h100.root(
        # DCGM 3 is there already, and runs.
        "mkdir -p /tmp/old; cd /tmp/old\n"
        f"curl -sf -o dcgm.deb {h100.live.vendor_url}/datacenter-gpu-manager_3.3.9-1_amd64.deb\n"
        "dpkg -i dcgm.deb"
    )
    h100.want(**EVERYTHING)
    assert "datacenter-gpu-manager 1:3.3.9-1 (DCGM 3) goes" in {
        why for step in h100.plan().steps for why in step.why.split("; ")
    }
    h100.converge()
    assert h100.wanted is not None
    assert smi(h100, "power.limit,mig.mode.current") == ["500.00 W, Enabled"]
    assert smi(h100, "ecc.mode.current,ecc.mode.pending") == ["Enabled, Disabled"]
    assert "EnableStreamMemOPs: 1" in h100.root("cat /proc/driver/nvidia/params")
    assert h100.root("nvidia-smi -L").count("MIG 3g.40gb") == 16
    assert "datacenter-gpu-manager" not in h100.facts().packages
    services = h100.facts().services
    for unit in ("nvidia-dcgm.service", "nvidia-cdi-refresh.path"):
        assert (services[unit].active, services[unit].enabled) == ("active", "enabled"), unit
    assert h100.facts().cdi == {"/run/cdi/nvidia.yaml": NEW}
    lockable_memory(h100)
    due = reboot_due(h100.wanted, h100.facts())
    assert due is not None
    assert due.why == "waiting for a boot: ECC of GPU 0, 1, 2, 3, 4, 5, 6, 7"

    again(h100)
    assert h100.titles() == []
    assert reboot_due(h100.wanted, h100.facts()) is None
    assert smi(h100, "ecc.mode.current,power.limit,mig.mode.current") == [
        "Disabled, 500.00 W, Enabled"
    ]
    assert h100.root("nvidia-smi -L").count("MIG 3g.40gb") == 16

    # Left out: our files go, the values stay, and are said to.
    h100.want(**BASE)
    whys = [step.why for step in h100.plan().steps]
    assert sum("stays until" in why or "keeps its" in why for why in whys) == 3
    h100.converge()
    assert smi(h100, "power.limit,mig.mode.current,ecc.mode.pending") == [
        "500.00 W, Enabled, Disabled"
    ]
    left = look(h100.connection, NodeSpec())
    assert not [path for path in left if "memlock" in path or "settings" in path]
    assert "/etc/modprobe.d/gpufleet-nvidia.conf" not in left


def test_imex_runs_where_its_domain_is_described_and_what_cannot_be_is_refused(
    h100: Node,
) -> None:
    wanted = h100.want(**BASE)
    pins = {"nvidia-imex": PackagePin(version=f"{NEW}-1", size=0)}
    imex = Component(version=NEW, packages=pins)
    stack = wanted.stack.model_copy(update={"imex": imex})
    h100.wanted = wanted.model_copy(update={"stack": stack})
    h100.converge()
    with slow_tool(h100):  # it has a GPU open while the probe looks who has
        found = h100.facts()
    assert (found.gpu_users, len(found.gpu_settings)) == ((), 8)
    plan = h100.plan()
    assert any("names no tray, so nvidia-imex is not started" in one for one in plan.warnings)
    h100.root("echo 10.0.0.1 >>/etc/nvidia-imex/nodes_config.cfg")
    assert h100.titles() == ["imex: nvidia-imex is enabled and runs"]
    h100.converge()
    assert h100.facts().services["nvidia-imex.service"].active == "active"
    h100.root("systemctl disable --now nvidia-imex")  # it has the GPUs open, which MIG minds

    h100.want(**BASE, power_limit=100)
    blocked = h100.plan().blocked
    assert blocked is not None
    assert "takes 200 to 700 W, not 100" in blocked.reason

    # What is set needs nobody's GPU but MIG does.
    h100.want(**BASE, power_limit=600, mig=("7g.80gb",), module_options=("NVreg_EnableMSI=0",))
    with h100.live.broken(h100.name, "busy"):
        plan = h100.plan()
        assert plan.verdict == "busy"
        undisturbed = [step for step in plan.steps if not step.disruptive]
        assert [one.rc for one in h100.run(undisturbed)] == [0] * len(undisturbed)
        assert smi(h100, "power.limit,mig.mode.current") == ["600.00 W, Disabled"]
    h100.converge()
    assert smi(h100, "power.limit,mig.mode.current") == ["600.00 W, Enabled"]
    assert "EnableMSI: 0" in h100.root("cat /proc/driver/nvidia/params")

    paths = look(h100.connection, h100.spec)
    assert "/etc/systemd/system/gpufleet-gpu-settings.service" in paths
    remove(h100.connection, paths, h100.spec)
    assert look(h100.connection, h100.spec) == []
    asked = "systemctl is-enabled gpufleet-gpu-settings 2>&1 || true"
    assert "enabled" not in h100.root(asked).split()
