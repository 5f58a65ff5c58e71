"""What the host report says of a converged host, and of each fault while it is there and after.

One host with a fabric, a driver, cuDNN and a simulated CUDA build of torch serves all of it. Faults
that do not hide each other are there at the same time.
"""

from __future__ import annotations

import base64
import io
import json
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import packaging
import pynvml
import pytest

from tests.fleet.live import LiveFleet
from tests.fleet.test_layers import NEW, opened
from tests.fleet.test_sim import H100
from tests.sim import faults, paths

Report = dict[str, Any]
BUNDLE = "/srv/bundle"
UUID = "GPU-00000000-0000-0000-0000-000000000000"


def gpu(report: Report, index: int) -> Report:
    """One GPU as NVML shows it."""
    found: Report = report["nvml"]["gpus"][index]
    return found


def codes(report: Report) -> list[tuple[str, int]]:
    """Xid events as (slot, code)."""
    return [(event["slot"], event["code"]) for event in report["log"]["xids"]]


SEEN: dict[str, Callable[[Report], bool]] = {
    "no-self-name": lambda r: not r["self_name"]["addresses"] and r["self_name"]["error"] != "",
    "pcie-width:1:8": lambda r: (
        gpu(r, 1)["pcie"]["width"] == r["pci"]["gpus"][1]["width"] == 8
        and gpu(r, 1)["pcie"]["width_max"] == r["pci"]["gpus"][1]["width_max"] == 16
    ),
    f"nvml:2:uuid={UUID}": lambda r: gpu(r, 2)["uuid"] == UUID,
    "nvml:1:ecc_uncorrected=3": lambda r: gpu(r, 1)["ecc"]["uncorrected"] == 3,
    "nvml:2:remap_pending=1": lambda r: gpu(r, 2)["remap"]["pending"],
    "nvml:3:remap_failed=1": lambda r: gpu(r, 3)["remap"]["failed"],
    "xid:1:48": lambda r: ("0000:2a:00", 48) in codes(r),
    "mig:4": lambda r: gpu(r, 4)["mig"],
    "persistence-off": lambda r: not any(one["persistence"] for one in r["nvml"]["gpus"]),
    "fabric-stopped": lambda r: all(one["fabric"]["state"] == 2 for one in r["nvml"]["gpus"]),
    "wrong-flavour": lambda r: (
        [r["modules"]["flavour"], *(m["flavour"] for m in r["modules"]["installed"].values())]
        == ["closed", "closed"]
    ),
    "nouveau": lambda r: "nouveau" in r["modules"]["loaded"],
    "next-kernel": lambda r: r["kernel"]["next"] == r["kernel"]["running"] + "+next",
    "reboot-required:dbus": lambda r: r["kernel"]["reboot_required"] == ["dbus"],
    "wheel-version": lambda r: r["torch"]["wheels"]["numpy"] == "1.0.1",
    "wheel-missing:filelock": lambda r: "filelock" not in r["torch"]["wheels"],
    "pip-check": lambda r: any("sim-extra 1.0" in said for said in r["pip"]["problems"]),
    "arch-list": lambda r: r["torch"]["arch_list"] == ["sm_50", "sm_60"],
    "fewer-devices": lambda r: (
        (r["torch"]["count"], len(r["torch"]["devices"]), r["torch"]["visible"]) == (1, 1, "0")
    ),
    "library-in-front": lambda r: r["torch"]["mapped"]["libcudnn.so.9"].startswith("/usr/lib/"),
    "busy:5": lambda r: (
        [(p["user"], p["gpus"]) for p in r["holders"]["processes"]] == [("trainer", [5])]
        and [p["pid"] for p in gpu(r, 5)["processes"]]
        == [p["pid"] for p in r["holders"]["processes"]]
    ),
    "slurm-busy:77": lambda r: r["holders"]["jobs"] == [{"id": "77", "user": "trainer"}],
    "tmp-full": lambda r: r["disks"][1]["free_mib"] == 0,
}
"""Faults that can be there at once, with what the report then says and says at no other time. The
last leaves no room for others to be made."""

ALONE: dict[str, Callable[[Report], bool]] = {
    "gpu-lost:1": lambda r: (
        (gpu(r, 1)["lost"], gpu(r, 1)["slot"], gpu(r, 1)["uuid"]) == (True, "0000:2a:00.0", None)
        and r["pci"]["gpus"][1]["revision"] == "ff"
        and ("0000:2a:00", 79) in codes(r)
        and not any(gpu(r, index)["lost"] for index in (0, 2, 7))
    ),
    "gpu-absent:1": lambda r: (r["nvml"]["count"], len(r["pci"]["gpus"])) == (7, 7),
    "stale-module": lambda r: (
        r["modules"]["loaded"]["nvidia"] == "580.95.05"
        and r["nvml"]["state"] == "failed"
        and "version mismatch" in r["nvml"]["error"]
        and {m["version"] for m in r["modules"]["installed"].values()} == {NEW}
    ),
    "env-broken": lambda r: (
        (r["torch"]["state"], r["pip"]["state"]) == ("failed", "failed")
        and "bin/python: No such file" in r["pip"]["error"]
    ),
}
"""Faults that hide others."""


class Host:
    """The converged host, which answers with its report."""

    def __init__(self, fleet: LiveFleet, env: str) -> None:
        self.fleet = fleet
        self.asked = json.dumps({"prefix": "/opt/gpufleet", "env": env})

    def report(self) -> Report:
        """What host_report.py prints now."""
        command = f"sudo python3 -B {BUNDLE}/verify/payload/host_report.py '{self.asked}'"
        (line,) = self.fleet.ssh(H100, command).ok().splitlines()
        assert line.startswith("GPUFLEET ")
        found: Report = json.loads(line.removeprefix("GPUFLEET "))
        return found


def bundle() -> str:
    """The payloads and the two libraries that they need, as tar in base64."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as archive:
        for file in sorted((paths.REPOSITORY / "verify/payload").glob("*.py")):
            archive.add(file, f"bundle/verify/payload/{file.name}")
        archive.add(paths.REPOSITORY / "verify/__init__.py", "bundle/verify/__init__.py")
        archive.add(str(pynvml.__file__), "bundle/lib/pynvml.py")
        archive.add(Path(packaging.__file__).parent, "bundle/lib/packaging")
    return base64.b64encode(out.getvalue()).decode()


@pytest.fixture(scope="module")
def host(fleet: LiveFleet) -> Iterator[Host]:
    """A host with a stack whose torch is a (simulated) CUDA build, converged."""
    with opened(fleet, H100) as node:
        node.want(driver=NEW, cuda="none", torch="2.13.0", torch_build="cu130")
        node.converge()
        unpack = "base64 -d | sudo tar -C /srv --no-same-owner -xzf - && sudo chmod -R go+rX /srv"
        fleet.ssh(H100, unpack, stdin=bundle()).ok()
        yield Host(fleet, fleet.ssh(H100, "readlink -f /opt/gpufleet/env").ok().strip())


@pytest.fixture(scope="module")
def before(host: Host) -> Report:
    """The report of the healthy host."""
    return host.report()


@pytest.fixture(scope="module")
def together(host: Host, before: Report) -> tuple[Report, Report]:
    """The report with every fault of `SEEN`, and the one after they were healed."""
    with host.fleet.broken(H100, *SEEN):
        broken = host.report()
    return broken, host.report()


def test_a_healthy_host_has_nothing_to_report(before: Report) -> None:
    assert before["host"]["simulated"] is True
    assert (before["host"]["hostname"], before["host"]["root"]) == (H100, True)
    assert [len(before["pci"][key]) for key in ("gpus", "nvswitches")] == [8, 4]
    assert before["modules"]["loaded"]["nvidia"] == NEW
    assert before["modules"]["flavour"] == "open"
    assert before["kernel"]["next"] == before["kernel"]["running"]
    assert (before["log"]["readable"], before["log"]["xids"]) == (True, [])
    assert (before["holders"]["complete"], before["holders"]["processes"]) == (True, [])
    assert (before["nvml"]["state"], before["nvml"]["count"]) == ("ok", 8)
    assert [one["errors"] for one in before["nvml"]["gpus"]] == [{}] * 8
    assert [one["slot"] for one in before["nvml"]["gpus"]] == [
        one["slot"] for one in before["pci"]["gpus"]
    ]
    torch = before["torch"]
    assert (torch["state"], torch["version"], torch["cudnn"]) == ("ok", "2.13.0+cu130", "9.20.0")
    assert [one["uuid"] for one in torch["devices"]] == [
        one["uuid"] for one in before["nvml"]["gpus"]
    ]
    assert (torch["user"], torch["in_front"]) == ("nobody", {})
    assert set(torch["mapped"]) == {
        *("libcudnn.so.9", "libnccl.so.2", "libcublas.so.13", "libcudart.so.13"),
    }
    assert all("/site-packages/nvidia/" in path for path in torch["mapped"].values())
    assert before["pip"] == {**before["pip"], "state": "ok", "problems": []}
    problems = [before[part]["error"] for part in ("pci", "modules", "kernel", "log", "holders")]
    assert problems == [""] * 5


@pytest.mark.parametrize("fault", SEEN)
def test_a_fault_is_reported_while_it_is_there(
    before: Report, together: tuple[Report, Report], fault: str
) -> None:
    broken, healed = together
    assert not SEEN[fault](before)
    assert SEEN[fault](broken), fault
    assert not SEEN[fault](healed)


def test_after_healing_all_is_as_before(before: Report, together: tuple[Report, Report]) -> None:
    def lasting(report: Report) -> Report:
        kept = {k: v for k, v in report.items() if k not in ("seconds", "disks")}
        for part in ("nvml", "torch", "pip"):
            kept[part] = {k: v for k, v in report[part].items() if k not in ("seconds", "uptime_s")}
        kept["network"] = {**report["network"], "uptime_s": None}
        return {**kept, "host": {**report["host"], "time": ""}}

    assert lasting(together[1]) == lasting(before)


@pytest.mark.parametrize("fault", ALONE)
def test_a_fault_that_hides_others(host: Host, before: Report, fault: str) -> None:
    assert not ALONE[fault](before)
    with host.fleet.broken(H100, fault):
        assert ALONE[fault](host.report()), fault
    assert not ALONE[fault](host.report())


def test_a_fabric_manager_of_another_version(host: Host) -> None:
    ask = "dpkg-query -W nvidia-fabricmanager; systemctl is-active nvidia-fabricmanager"
    before = host.fleet.ssh(H100, ask).out
    assert before == f"nvidia-fabricmanager\t{NEW}-1\nactive\n"
    with host.fleet.broken(H100, "fabric-version"):
        broken = host.fleet.ssh(H100, ask).out
        assert NEW not in broken
        assert broken.endswith("\nfailed\n")
        assert SEEN["fabric-stopped"](host.report())
    assert host.fleet.ssh(H100, ask).out == before


def test_every_fault_named_here_exists() -> None:
    names = {fault.partition(":")[0] for fault in {**SEEN, **ALONE}}
    assert names <= set(faults.kinds())
