"""Hosts as the checks see them, for tests: a healthy scene per hardware of the simulated fleet.

`scene` is what verify/payload/host_report.py says of a converged node with its expected state and
the record of its last good run; tests change one thing in it and ask one check.
"""

from __future__ import annotations

import copy
import shlex
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tests import around
from tests.sim.profiles import describe
from verify import thresholds
from verify.applies import Scene, applies
from verify.checks import Check, Look

KERNEL = "6.1.0-40-amd64"
DRIVER = "580.178.04"
PREFIX = "/opt/gpufleet"
ENVIRONMENT = f"{PREFIX}/envs/0123456789ab"
REPOSITORY = "http://10.77.0.1:8000/cuda/debian12/x86_64"
WHEELS = {"numpy": "2.4.6", "torch": "2.13.0+cu130"}
CUDNN = f"{ENVIRONMENT}/lib/python3.11/site-packages/nvidia/cudnn/lib/libcudnn.so.9"


def gpu(description: dict[str, Any], index: int) -> dict[str, Any]:
    """A healthy idle GPU as gpu_report.py tells it."""
    found = description["gpus"][index]
    major, minor = found["compute"]
    ampere, switched, name = major >= 8, bool(description["switched"]), found["name"]
    return {
        "index": index,
        "slot": found["slot"],
        "name": found["name"],
        "uuid": found["uuid"],
        "serial": found["serial"],
        "cc": [major, minor],
        "memory_mib": found["memory_mib"],
        "persistence": True,
        "ecc": {"mode": True, "corrected": 0, "uncorrected": 0},
        "remap": {"corrected": 0, "uncorrected": 0, "pending": False, "failed": False}
        if ampere
        else None,
        "retired": None if ampere else {"pending": False, "single_bit": 0, "double_bit": 0},
        "sram": {"threshold_exceeded": False, "uncorrected_ever": 0} if ampere else None,
        "recovery_action": 0,
        "pcie": {
            "gen": 1,
            "gen_max": found["pcie_gen"],
            "gen_gpu": found["pcie_gen"],
            "width": 16,
            "width_max": 16,
            "replays": 0,
        },
        "bus": {
            "aer": {"correctable": {}, "nonfatal": {}, "fatal": {}},
            "gen_max": found["pcie_gen"],
            "port_gen_max": None,
        },
        "mig": False if (major, minor) in ((8, 0), (9, 0)) else None,
        "compute_mode": 0,
        "fabric": {"state": 3, "status": 0, "health": 0x1AA, "summary": 1} if switched else None,
        "nvlinks": links(18 if switched else 6) if "HBM3" in name or "SXM" in name else None,
        "heat": {
            "gpu": 32,
            "slowdown": 87,
            "shutdown": 92,
            "margin": None,
            "memory": 38 if (major, minor) != (8, 9) else None,
            "memory_max": 95 if (major, minor) != (8, 9) else None,
        },
        "power": {
            "draw": 70.0,
            "enforced": 700.0,
            "default": 700.0,
            "held_by_power_ns": 0,
            "held_by_heat_ns": 0,
        },
        "clocks": {"reasons": 1, "supported": 0x1FF, "sm_mhz": 345, "memory_mhz": 2619},
        "memory": {"used_mib": 4, "reserved_mib": 560, "total_mib": found["memory_mib"]},
        "board": {"vbios": "96.00.A5.00.01", "gsp": DRIVER, "board_part": "692-2G520-0200-000"},
        "physics": {"sm_clock_max_mhz": 1980, "memory_clock_max_mhz": 2619, "cores": 16896},
        "processes": [],
        "lost": False,
        "errors": {},
        "unsupported": [],
    }


def links(count: int) -> dict[str, Any]:
    """Healthy NVLinks of a GPU."""
    errors: dict[str, dict[str, int]] = {
        name: {} for name in ("replay", "recovery", "crc_flit", "crc_data")
    }
    end = "switch" if count == 18 else "gpu"
    return {"count": count, "up": count, "down": [], "to": [end], "errors": errors}


def report(hardware: str) -> dict[str, Any]:
    """The report of a healthy converged host of this hardware (tests.sim.profiles.HARDWARE)."""
    description = describe("h1", hardware)
    functions = [one for one in description["pci"] if one["vendor"] == "0x10de"]
    switches = [one["slot"] for one in functions if one["class"] == "0x068000"]
    description["switched"] = bool(switches)
    gpus = [gpu(description, index) for index in range(len(description["gpus"]))]
    loaded = {"nvidia": DRIVER, "nvidia_uvm": DRIVER} if gpus else {}
    module = {"version": DRIVER, "flavour": "open"}
    return {
        "schema": 1,
        "host": {
            "hostname": "h1",
            "boot_id": "0c5e1a4e-3c2c-4d63-a5d0-6f9a2ee6b5d1",
            "kernel": KERNEL,
            "user": "root",
            "root": True,
            "simulated": True,
            "time": "2026-11-22T12:00:00Z",
            "virtual": False,
        },
        **around.report(hardware, [one["slot"] for one in gpus]),
        "pci": {
            "gpus": [
                {
                    "slot": one["slot"],
                    "device": one["device"][2:],
                    "class": "0302",
                    "revision": "a1",
                    "driver": "nvidia",
                    "width": 16,
                    "width_max": 16,
                }
                for one in functions
                if one["class"] == "0x030200"
            ],
            "nvswitches": switches,
            "error": "",
        },
        "modules": {
            "loaded": loaded,
            "flavour": "open" if gpus else "unknown",
            "installed": {KERNEL: module} if gpus else {},
            "error": "",
        },
        "kernel": {"running": KERNEL, "next": KERNEL, "reboot_required": [], "error": ""},
        "log": {"source": "journalctl -k", "readable": True, "error": "", "xids": [], "sxids": []},
        "nvml": {
            "state": "ok" if gpus else "absent",
            "seconds": 0.1,
            "stage": "",
            "error": "",
            "driver": DRIVER,
            "cuda": "13.0",
            "count": len(gpus),
            "uptime_s": 36000.0,
            "gpus": gpus,
        },
        "torch": {
            "state": "ok",
            "stage": "",
            "error": "",
            "python": "3.11.2",
            "executable": f"{ENVIRONMENT}/bin/python",
            "version": WHEELS["torch"],
            "cuda": "13.0",
            "cudnn": "9.20.0",
            "nccl": "2.29.7",
            "arch_list": ["sm_70", "sm_75", "sm_80", "sm_86", "sm_90", "compute_90"],
            "available": True,
            "count": len(gpus),
            "devices": [
                {"index": one["index"], "name": one["name"], "uuid": one["uuid"], "cc": one["cc"]}
                for one in gpus
            ],
            "mapped": {"libcudnn.so.9": CUDNN, "libcuda.so.1": "/usr/lib/libcuda.so.1"},
            "in_front": {},
            "wheels": dict(WHEELS),
            "visible": None,
        },
        "pip": {"state": "ok", "problems": [], "error": ""},
        "dcgm": {"installed": bool(gpus), "running": bool(gpus), "error": ""},
        "holders": {"complete": True, "processes": [], "jobs": [], "slurm": False, "error": ""},
        "self_name": {"name": "h1", "addresses": ["10.77.0.11"], "error": ""},
        "disks": [
            {
                "path": path,
                "total_mib": 500_000,
                "free_mib": 400_000,
                "inodes": 30_000_000,
                "free_inodes": 29_000_000,
                "readonly": False,
                "error": "",
            }
            for path in ("/", "/tmp", "/var/lib", PREFIX)
        ],
    }


def expected(hardware: str) -> dict[str, Any]:
    """The expected state of a converged host of this hardware."""
    found = report(hardware)
    gpus, switches = len(found["nvml"]["gpus"]), len(found["pci"]["nvswitches"])
    packages = {"nvidia-kernel-open-dkms": f"{DRIVER}-1", "libnvidia-ml1": f"{DRIVER}-1"}
    packages |= {"nvidia-fabricmanager": f"{DRIVER}-1"} if switches else {}
    services = ["nvidia-persistenced"] + (["nvidia-fabricmanager"] if switches else [])
    return {
        "version": 1,
        "host": "h1",
        "stack": "6c3fac5c0937",
        "gpus": gpus,
        "nvswitches": switches,
        "driver": {"branch": "580", "version": DRIVER, "flavour": "open"} if gpus else None,
        "fabric": DRIVER if switches else None,
        "cuda": None,
        "cudnn": None,
        "nccl": None,
        "packages": packages if gpus else {},
        "services": services if gpus else [],
        "prefix": PREFIX,
        "mounts": ["/data", "/home"],
        "network_ports": 8 if hardware == "hgx-h100" else None,
        "library_path": False,
        "environment": {
            "id": "0123456789ab",
            "path": ENVIRONMENT,
            "python": "3.11",
            "torch": "2.13.0",
            "build": "cu130",
            "wheels": dict(WHEELS),
        },
    }


def record(hardware: str) -> dict[str, Any]:
    """The record of this host's last good run."""
    names = ("name", "uuid", "serial", "slot")
    gpus = [{name: one[name] for name in names} for one in report(hardware)["nvml"]["gpus"]]
    known = {"schema": 1, "time": "2026-11-21T12:00:00Z", "stack": "6c3fac5c0937", "gpus": gpus}
    return known | around.record(hardware)


def request(**changes: Any) -> dict[str, Any]:
    """A request as a controller with a lock sends it."""
    values = {
        "schema": 1,
        "nonce": "4f1c",
        "host": "h1",
        "level": "quick",
        "checks": [],
        "expected": None,
        "prefix": PREFIX,
        "train_as": "",
        "env": "",
        "via": "",
        "minutes": 0,
        "rendezvous": None,
        "thresholds": {},
        "accept_hardware": False,
    }
    return {**values, **changes}


def scene(hardware: str = "hgx-h100", **changes: Any) -> Scene:
    """A healthy host, held against its lock."""
    values: dict[str, Any] = {
        "asked": request(),
        "report": report(hardware),
        "expected": expected(hardware),
        "expected_from": "lock",
        "own": expected(hardware),
        "own_fault": "",
        "record": record(hardware) if hardware != "none" else None,
        "record_fault": "",
    }
    return Scene(**{**values, **changes})


@dataclass
class Ran:
    """What a command of the host came to."""

    rc: int = 0
    stdout: str = ""
    stderr: str = ""


@dataclass
class Service:
    """testinfra's service, as far as checks ask it."""

    is_running: bool


@dataclass
class Package:
    """testinfra's package, as far as checks ask it."""

    version: str

    @property
    def is_installed(self) -> bool:
        return bool(self.version)


@dataclass
class Host:
    """testinfra's host: what dpkg has, services that run, files, and where apt finds what."""

    packages: dict[str, str] = field(default_factory=dict)
    services: list[str] = field(default_factory=list)
    files: dict[str, str] = field(default_factory=dict)
    """Path -> its content, or the target of the link."""
    offers: dict[str, tuple[str, str]] = field(default_factory=dict)
    """Package -> candidate and the repository of it, where not the installed one of REPOSITORY."""
    answers: dict[str, Ran] = field(default_factory=dict)
    """First word of a command -> what it comes to, in place of all that."""

    def service(self, name: str) -> Service:
        return Service(name in self.services)

    def package(self, name: str) -> Package:
        return Package(self.packages.get(name, ""))

    def run(self, command: str, *words: str) -> Ran:
        line = command % tuple(shlex.quote(word) for word in words) if words else command
        first = line.removeprefix("LC_ALL=C ").split()[0]
        if first in self.answers:
            return self.answers[first]
        if first == "dpkg-query":
            return self._dpkg(line.partition(" -- ")[2].split())
        if first == "apt-cache":
            return Ran(stdout="".join(self._policy(name) for name in line.split()[3:]))
        if first == "readlink":
            return Ran(stdout=self.files.get(words[0], words[0]) + "\n")
        if first == "if" and "dpkg-query -S" in line:
            return Ran(1) if words[0] in self.files else Ran(44)
        raise AssertionError(f"the host is asked for what no check asked before: {line}")

    def _dpkg(self, patterns: list[str]) -> Ran:
        from fnmatch import fnmatch

        names = [shlex.split(one)[0] for one in patterns]
        found = [
            f"ii \t{name}\t{version}"
            for name, version in self.packages.items()
            if any(fnmatch(name, pattern) for pattern in names)
        ]
        return Ran(0 if len(found) == len(names) else 1, "\n".join(found))

    def _policy(self, word: str) -> str:
        name = shlex.split(word)[0]
        version = self.packages[name]
        candidate, where = self.offers.get(name, (version, REPOSITORY))
        lines = [f"{name}:", f"  Installed: {version}", f"  Candidate: {candidate}"]
        lines.append("  Version table:")
        if candidate != version:
            lines += [f"     {candidate} 500", f"        500 {where}  Packages"]
        lines.append(f" *** {version} 1000")
        if candidate == version and where:
            lines.append(f"        500 {where}  Packages")
        elif candidate != version:
            lines.append(f"        500 {REPOSITORY}  Packages")
        lines.append("        100 /var/lib/dpkg/status")
        return "\n".join(lines) + "\n"


def host(of: Scene) -> Host:
    """The host of a healthy scene: everything expected is installed and runs."""
    wanted = of.expected or {"packages": {}, "services": []}
    return Host(
        packages=dict(wanted["packages"]),
        services=list(wanted["services"]),
        files={f"{PREFIX}/env": ENVIRONMENT},
    )


def ask(check: Callable[..., None], of: Scene, there: Host | None = None) -> Look | str:
    """One check asked of a scene: its Look; the reason when it is not asked."""
    marked: Check = check.check  # type: ignore[attr-defined]
    answer = applies(marked, of)
    look = Look(marked)
    if answer.kind == "not-asked":
        return answer.reason
    if answer.kind == "not-run":
        from verify.checks import HOST

        look.unknown(HOST, "this check", why=answer.reason, because=answer.because)
        return look
    fixtures = {
        "scene": of,
        "report": of.report,
        "expected": of.expected,
        "gpus": of.report["nvml"]["gpus"],
        "asked": of.asked,
        "host": there if there is not None else host(of),
        "look": look,
        "threshold": lambda name: thresholds.value(name, of.asked["thresholds"]),
        "inform": lambda text: None,
    }
    names = check.__code__.co_varnames[: check.__code__.co_argcount]
    check(**{name: fixtures[name] for name in names})
    return look


def changed(of: Scene, change: Callable[[dict[str, Any]], None]) -> Scene:
    """The scene with its report (and what else is in it) changed by a function."""
    parts = copy.deepcopy(
        {
            "report": of.report,
            "expected": of.expected,
            "own": of.own,
            "record": of.record,
            "asked": of.asked,
        }
    )
    change(parts)
    values = {name: getattr(of, name) for name in ("expected_from", "own_fault", "record_fault")}
    return Scene(**{**values, **parts})
