"""Hosts that are broken in one way each, and what one check must find about them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tests import reported
from tests.reported import DRIVER, KERNEL, Host, Ran


@dataclass
class Case:
    """A host with one fault, and the findings of one check about it."""

    id: str
    change: Callable[[dict[str, Any]], None] = lambda parts: None
    part: str = ""
    """kind, and index or name, of every component that must be named, one after another."""
    verdict: str = "fail"
    action: str = "keep"
    says: str = ""
    """In what is found, of the first finding."""
    because: str = ""
    hardware: str = "hgx-h100"
    there: Callable[[Host], None] = lambda host: None
    scene: dict[str, Any] = field(default_factory=dict)


def gpu(key: str, value: object, index: int = 1) -> Callable[[dict[str, Any]], None]:
    """GPU 1 says something else: `key` with dots for what is deeper."""

    def change(parts: dict[str, Any]) -> None:
        where = parts["report"]["nvml"]["gpus"][index]
        *path, last = key.split(".")
        for name in path:
            where = where[name]
        where[last] = value

    return change


def said(path: str, value: object) -> Callable[[dict[str, Any]], None]:
    """The report, the expected state ... says something else, as report.nvml.state."""

    def change(parts: dict[str, Any]) -> None:
        where: Any = parts
        *names, last = path.split(".")
        for name in names:
            where = where[int(name) if name.isdigit() else name]
        where[int(last) if last.isdigit() else last] = value

    return change


def both(*changes: Callable[[dict[str, Any]], None]) -> Callable[[dict[str, Any]], None]:
    def change(parts: dict[str, Any]) -> None:
        for one in changes:
            one(parts)

    return change


def lost(parts: dict[str, Any]) -> None:
    """GPU 1 fell off the bus: it has its index and its slot, and nothing else."""
    found = parts["report"]["nvml"]["gpus"][1]
    kept = {"index": 1, "slot": found["slot"], "lost": True, "processes": [], "unsupported": []}
    errors = {name: "GPU is lost (NVML error 15)" for name in found if name not in kept}
    parts["report"]["nvml"]["gpus"][1] = {**dict.fromkeys(found), **kept, "errors": errors}
    parts["report"]["pci"]["gpus"][1]["revision"] = "ff"


def gone(parts: dict[str, Any]) -> None:
    """GPU 1 is not on the bus, and NVML's indices move up."""
    del parts["report"]["pci"]["gpus"][1]
    del parts["report"]["nvml"]["gpus"][1]
    for index, one in enumerate(parts["report"]["nvml"]["gpus"]):
        one["index"] = index
    parts["report"]["nvml"]["count"] -= 1


def xid(*codes: int) -> Callable[[dict[str, Any]], None]:
    """Events of GPU 1 in the kernel log."""

    def change(parts: dict[str, Any]) -> None:
        slot = parts["report"]["pci"]["gpus"][1]["slot"].rpartition(".")[0]
        parts["report"]["log"]["xids"] = [
            {"slot": slot, "code": code, "time": f"12:0{n}", "line": f"NVRM: Xid {code}, {n}"}
            for n, code in enumerate(codes)
        ]

    return change


def silent(state: str, error: str = "", **more: object) -> Callable[[dict[str, Any]], None]:
    """NVML gives no GPUs."""

    def change(parts: dict[str, Any]) -> None:
        parts["report"]["nvml"].update(
            {"state": state, "error": error, "gpus": [], "count": None, "driver": None, **more}
        )

    return change


unloaded = both(
    said("report.modules.loaded", {}),
    silent("failed", "Driver Not Loaded (NVML error 9)"),
    lambda parts: [one.update(driver="") for one in parts["report"]["pci"]["gpus"]] and None,
)
RM = "Driver/library version mismatch (NVML error 18)"
STALE = said("report.modules.loaded.nvidia", "580.95.05")
NEXT = said("report.kernel.next", "6.1.0-41-amd64")
CUDA_13 = ["sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120", "compute_120"]


def rpms(there: Host, versions: dict[str, str], origins: dict[str, str] | None = None) -> None:
    """A host of rpm and dnf, a package of which is at another version or of another origin."""
    packages = there.packages | versions
    known = dict.fromkeys(packages, "vendor") | (origins or {})
    there.answers |= {
        "dpkg-query": Ran(127),
        "apt-cache": Ran(127),
        "rpm": Ran(0, "".join(f"ii \t{name}\t{full}\n" for name, full in packages.items())),
        "dnf": Ran(0, "".join(f"{name}\t{one}\n" for name, one in known.items())),
    }


def no_persistence(there: Host) -> None:
    there.services.remove("nvidia-persistenced")


def no_fabric(there: Host) -> None:
    there.services.remove("nvidia-fabricmanager")


def other_fabric(there: Host) -> None:
    """A fabric manager of another version than the driver's does not start."""
    no_fabric(there)
    there.packages["nvidia-fabricmanager"] = "580.95.05-1"


def packages(**versions: str) -> Callable[[Host], None]:
    return lambda there: there.packages.update(
        {name.replace("_", "-"): version for name, version in versions.items()}
    )


CASES = [
    # the first case of each check is its main fault; the others are the rest of its claim
    Case("gpu.count", gone, "gpu 1 gone", action="service", says="7 GPUs"),
    Case("gpu.count", said("expected.gpus", 9), "host", action="service", says="8"),
    Case("gpu.count", said("expected.gpus", 7), "host", verdict="degraded", says="8"),
    Case("gpu.count", silent("hung"), "host", verdict="not-run", because="nvml.answers"),
    Case("gpu.count", said("report.pci.error", "no sysfs"), "host", verdict="not-run"),
    Case("gpu.count", said("report.nvml.count", 9), "host", action="reboot", says="9"),
    Case(
        "gpu.count",
        both(gone, said("report.pci.gpus", reported.report("hgx-h100")["pci"]["gpus"])),
        "gpu 1 gone",
        action="reboot",
        says="not in NVML",
    ),
    Case("gpu.answers", lost, "gpu 1", action="reboot", says="ff"),
    Case("gpu.answers", said("report.pci.gpus.1.driver", "vfio-pci"), "gpu 1", says="vfio-pci"),
    Case("gpu.answers", said("report.pci.gpus.1.driver", ""), "gpu 1", action="reboot"),
    Case("gpu.identity", gpu("serial", "1"), "gpu 1", verdict="degraded", says="1"),
    Case("gpu.identity", gpu("uuid", "GPU-other"), "gpu 1", verdict="degraded"),
    Case("gpu.identity", gpu("name", "NVIDIA A100"), "gpu 1", says="A100"),
    Case("gpu.identity", lost, "gpu 1 old", verdict="not-run", because="gpu.answers"),
    Case("gpu.identity", gone, "gpu 1 gone", verdict="not-run", because="gpu.count"),
    Case(
        "gpu.identity",
        lambda parts: parts["record"]["gpus"].pop(),
        "gpu 7",
        verdict="degraded",
    ),
    Case("gpu.identity", scene={"record_fault": "broken"}, part="host", verdict="not-run"),
    Case("gpu.ecc", gpu("ecc.uncorrected", 3), "gpu 1", action="reset", says="3"),
    Case("gpu.ecc", gpu("ecc.mode", False), "gpu 1", verdict="degraded", says="off"),
    Case("gpu.ecc", gpu("ecc.uncorrected", None), "gpu 1", verdict="not-run"),
    Case(
        "gpu.ecc",
        both(gpu("ecc.uncorrected", None), gpu("mig", True)),
        "gpu 1",
        verdict="not-run",
        because="gpu.mig",
    ),
    Case(
        "gpu.ecc",
        both(gpu("ecc", None), gpu("mig", True), gpu("unsupported", ["ecc"])),
        "gpu 1",
        verdict="not-run",
        because="gpu.mig",
    ),
    Case("gpu.ecc", lost, "gpu 1", verdict="not-run", because="gpu.answers"),
    Case("gpu.remap-pending", gpu("remap.pending", True), "gpu 1", action="reset"),
    Case(
        "gpu.remap-pending",
        both(gpu("remap", None), gpu("errors", {"remap": "Unknown Error"})),
        "gpu 1",
        verdict="not-run",
        says="Unknown Error",
    ),
    Case("gpu.remap-failed", gpu("remap.failed", True), "gpu 1", action="service"),
    Case("gpu.remap-failed", gpu("remap.uncorrected", 513), "gpu 1", action="service", says="513"),
    Case(
        "gpu.retired-pages",
        gpu("retired.pending", True),
        "gpu 1",
        action="reset",
        hardware="v100",
    ),
    Case(
        "gpu.retired-pages",
        both(gpu("retired.double_bit", 30), gpu("retired.single_bit", 32)),
        "gpu 1",
        action="service",
        says="62",
        hardware="v100",
    ),
    Case(
        "gpu.retired-pages",
        gpu("retired.double_bit", None),
        "gpu 1",
        verdict="not-run",
        hardware="v100",
    ),
    Case("gpu.xid", xid(48, 48, 48), "gpu 1", action="reset", says="3 times, 12:00 to 12:02"),
    Case("gpu.xid", xid(94), "gpu 1", verdict="degraded", says="once"),
    Case("gpu.xid", xid(999), "gpu 1", verdict="degraded", action="drain"),
    Case("gpu.xid", both(lost, xid(79)), "gpu 1 old", action="reboot", because="gpu.answers"),
    Case("gpu.xid", xid(79), "gpu 1", action="reboot"),
    Case(
        "gpu.xid",
        said("report.log.readable", False),
        "host",
        verdict="not-run",
        because="host.kernel-log",
    ),
    Case("gpu.pcie-width", gpu("pcie.width", 8), "gpu 1", "degraded", "service", says="x8"),
    Case(
        "gpu.pcie-width",
        said("report.pci.gpus.1.width", 4),
        "gpu 1",
        "degraded",
        "service",
        says="x4",
    ),
    Case(
        "gpu.pcie-width",
        both(
            gpu("pcie", dict.fromkeys(("width", "width_max"))),
            said("report.pci.gpus.1.width", None),
        ),
        "gpu 1",
        verdict="not-run",
    ),
    Case(
        "gpu.persistence",
        part="service nvidia-persistenced",
        verdict="degraded",
        there=no_persistence,
    ),
    Case("gpu.persistence", gpu("persistence", False), "gpu 1", verdict="degraded", says="off"),
    Case("gpu.persistence", gpu("persistence", None), "gpu 1", verdict="not-run"),
    Case("gpu.mig", gpu("mig", True), "gpu 1", verdict="degraded", says="on"),
    Case(
        "gpu.mig",
        both(gpu("mig", None), gpu("errors", {"mig": "Unknown Error"})),
        "gpu 1",
        verdict="not-run",
    ),
    Case(
        "nvml.answers",
        silent("hung", stage="device 3: ecc", seconds=10.0),
        "driver NVML",
        verdict="hung",
        action="reboot",
        says="device 3: ecc",
    ),
    Case("nvml.answers", unloaded, "driver NVML", says="Not Loaded"),
    Case("nvml.answers", silent("failed", RM), "driver NVML", action="reboot", says="mismatch"),
    Case(
        "nvml.answers",
        both(silent("failed", RM), STALE),
        "driver NVML",
        action="reboot",
        because="driver.version",
    ),
    Case("nvml.answers", silent("absent", "Library Not Found"), "driver NVML", says="Not Found"),
    Case(
        "nvml.answers",
        both(unloaded, said("report.modules.loaded", {"nouveau": ""})),
        "driver NVML",
        because="driver.nouveau",
    ),
    Case("driver.version", both(STALE, silent("failed", RM)), "driver nvidia", action="reboot"),
    Case("driver.version", said("report.nvml.driver", "1.2"), "driver nvidia", action="reboot"),
    Case("driver.version", said("report.modules.installed", {}), "driver nvidia", says="none"),
    Case(
        "driver.version",
        said("expected.driver.version", "590.1.2"),
        "driver nvidia, package nvidia-kernel-open-dkms",
        action="reboot",
        says=DRIVER,
    ),
    Case(
        "driver.version",
        part="package nvidia-kernel-open-dkms",
        there=packages(nvidia_kernel_open_dkms="590.1.2-1"),
        because="stack.packages",
        says="590.1.2-1",
    ),
    Case("driver.version", unloaded, "driver nvidia", verdict="not-run", because="nvml.answers"),
    Case("driver.version", said("report.modules.error", "x"), "driver nvidia", verdict="not-run"),
    Case(
        "driver.flavour",
        said("report.modules.flavour", "closed"),
        "driver nvidia",
        action="reboot",
        says="closed",
    ),
    Case(
        "driver.flavour",
        said("report.modules.flavour", "unknown"),
        "driver nvidia",
        verdict="not-run",
    ),
    Case("driver.flavour", unloaded, "driver nvidia", "not-run", because="nvml.answers"),
    Case(
        "driver.nouveau",
        said("report.modules.loaded.nouveau", ""),
        "driver nouveau",
        action="reboot",
    ),
    Case("driver.nouveau", said("report.modules.error", "x"), "driver nouveau", "not-run"),
    Case("driver.next-boot", NEXT, "driver nvidia for 6.1.0-41-amd64", says="none"),
    Case(
        "driver.next-boot",
        said("report.kernel.reboot_required", ["libc6"]),
        "package libc6",
        verdict="degraded",
        action="reboot",
    ),
    Case(
        "driver.next-boot",
        said("report.modules.installed", {}),
        f"driver nvidia for {KERNEL}",
        because="driver.version",
    ),
    Case("driver.next-boot", said("report.kernel.next", None), "driver", verdict="not-run"),
    Case("fabric.manager", part="service nvidia-fabricmanager", there=no_fabric, says="not"),
    Case(
        "fabric.manager",
        part="service nvidia-fabricmanager",
        there=other_fabric,
        because="stack.packages",
        says="not running",
    ),
    Case("fabric.manager", gpu("fabric.state", 1), "gpu 1", says="state 1"),
    Case("fabric.manager", gpu("fabric.status", 3), "gpu 1", says="status 3"),
    Case(
        "fabric.manager",
        said("expected.packages.nvidia-fabricmanager", "580.95.05-1"),
        "service nvidia-fabricmanager",
        says="580.95.05",
    ),
    Case(
        "fabric.manager",
        part="service nvidia-fabricmanager",
        there=packages(nvidia_fabricmanager="580.95.05-1"),
        says="580.95.05",
        because="stack.packages",
    ),
    Case("fabric.manager", silent("hung"), "host", "not-run", because="nvml.answers"),
    Case("stack.packages", part="package libnvidia-ml1", there=packages(libnvidia_ml1="1-1")),
    Case(
        "stack.packages",
        part="package libnvidia-ml1",
        there=packages(libnvidia_ml1=""),
        says="not installed",
    ),
    Case(
        "stack.packages",
        part="host",
        verdict="not-run",
        there=lambda host: host.answers.update({"dpkg-query": Ran(2)}),
    ),
    Case(
        "stack.packages",
        part="host",
        verdict="not-run",
        there=lambda host: host.answers.update({"dpkg-query": Ran(127), "rpm": Ran(127)}),
    ),
    Case(
        "stack.packages",
        part="package libnvidia-ml1",
        there=lambda host: rpms(host, {"libnvidia-ml1": "2:1-1.el9"}),
        says="2:1-1.el9",
    ),
    Case(
        "stack.origin",
        part="package libnvidia-ml1",
        verdict="degraded",
        there=lambda host: host.offers.update({"libnvidia-ml1": ("2.99", "file:/other")}),
        says="2.99 of file:/other",
    ),
    Case(
        "stack.origin",
        part="package libnvidia-ml1",
        there=lambda host: host.offers.update({"libnvidia-ml1": (f"{DRIVER}-1", "file:/other")}),
        says="file:/other",
    ),
    Case(
        "stack.origin",
        part="package libnvidia-ml1",
        verdict="degraded",
        there=lambda host: host.offers.update({"libnvidia-ml1": (f"{DRIVER}-1", "")}),
        says="no repository",
    ),
    Case(
        "stack.origin",
        part="file /usr/bin/nvidia-uninstall",
        there=lambda host: host.files.update({"/usr/bin/nvidia-uninstall": ""}),
    ),
    Case(
        "stack.origin",
        part="host",
        verdict="not-run",
        there=lambda host: host.answers.update({"apt-cache": Ran(100)}),
    ),
    Case(
        "stack.origin",
        part="package libnvidia-ml1",
        there=lambda host: rpms(host, {}, {"libnvidia-ml1": "epel"}),
        says="epel",
    ),
    Case(
        "stack.origin",
        part="package libnvidia-ml1",
        verdict="degraded",
        there=lambda host: rpms(host, {}, {"libnvidia-ml1": "@commandline"}),
        says="no repository (@commandline)",
    ),
    Case(
        "stack.origin",
        part="host",
        verdict="not-run",
        there=lambda host: host.answers.update({"apt-cache": Ran(127), "dnf": Ran(127)}),
    ),
    Case(
        "env.works",
        both(said("report.torch.state", "failed"), said("report.torch.error", "no such file")),
        "environment 0123456789ab",
        says="no such file",
    ),
    Case("env.works", said("report.torch.state", "hung"), "environment 0123456789ab", "hung"),
    Case("env.works", said("report.torch.state", "slow"), "environment 0123456789ab", "not-run"),
    Case(
        "env.works", said("report.torch.python", "3.12.1"), "environment 0123456789ab", says="3.12"
    ),
    Case("env.works", said("report.torch.version", "2.1+cpu"), "environment", says="2.1"),
    Case(
        "env.works",
        part="environment 0123456789ab",
        there=lambda host: host.files.update({f"{reported.PREFIX}/env": "/opt/other"}),
        says="/opt/other",
    ),
    Case("env.wheels", said("report.torch.wheels.numpy", "1.0.1"), "wheel numpy", says="1.0.1"),
    Case("env.wheels", said("report.torch.wheels.extra", "1"), "wheel extra", verdict="degraded"),
    Case(
        "env.wheels",
        both(
            said("report.torch.wheels.extra", "1"),
            said("report.pip.problems", ["extra 1 requires x, which is not installed."]),
        ),
        "wheel extra",
        verdict="degraded",
        because="env.pip-check",
    ),
    Case("env.wheels", said("report.torch.wheels", {}), "environment", "not-run"),
    Case(
        "env.wheels",
        both(said("report.torch.wheels", {}), said("report.torch.state", "failed")),
        "environment",
        "not-run",
        because="env.works",
    ),
    Case("env.pip-check", said("report.pip.problems", ["a 1 requires b"]), "environment", says="1"),
    Case(
        "env.pip-check",
        both(
            said("report.pip.problems", ["torch 2 has requirement numpy>2, but you have numpy 1."]),
            said("report.torch.wheels.numpy", "1"),
        ),
        "environment",
        because="env.wheels",
    ),
    Case("env.pip-check", said("report.pip.state", "hung"), "environment", verdict="not-run"),
    Case(
        "torch.libraries",
        said("report.torch.in_front", {"libcudnn.so.9": "/usr/lib/libcudnn.so.9"}),
        "library libcudnn.so.9",
        says="/usr/lib/",
    ),
    Case(
        "torch.libraries",
        said("report.torch.in_front", {"libcublas.so.13": "/usr/local/cuda/lib64/libcublas.so.13"}),
        "library libcublas.so.13",
        verdict="degraded",
        says="/usr/local/cuda/",
    ),
    Case(
        "torch.libraries",
        said("report.torch.mapped", {"libnccl.so.2": "/usr/local/lib/libnccl.so.2"}),
        "library libnccl.so.2",
    ),
    Case("torch.libraries", said("report.torch.mapped", {}), "host", verdict="not-run"),
    Case(
        "torch.libraries",
        said("report.torch.state", "failed"),
        "host",
        verdict="not-run",
        because="env.works",
    ),
    Case(
        "torch.arch-list",
        both(said("report.torch.arch_list", CUDA_13)),
        "gpu 0, gpu 1, gpu 2, gpu 3",
        hardware="v100",
        says="sm_70",
    ),
    Case("torch.arch-list", said("report.torch.arch_list", None), "host", verdict="not-run"),
    Case("torch.arch-list", gpu("cc", None), "gpu 1", verdict="not-run"),
    Case("torch.devices", lambda parts: parts["report"]["torch"]["devices"].pop(1), "gpu 1"),
    Case("torch.devices", said("report.torch.devices.0.uuid", "GPU-x"), "gpu 0, host"),
    Case("host.self-name", said("report.self_name.addresses", []), "host h1"),
    Case("host.disk", said("report.disks.1.free_mib", 0), "disk /tmp", says="0 MiB"),
    Case(
        "host.disk", said("report.disks.3.readonly", True), "disk /opt/gpufleet", says="read-only"
    ),
    Case("host.disk", said("report.disks.0.free_mib", 1000), "disk /", verdict="degraded"),
    Case("host.disk", said("report.disks.0.free_mib", None), "disk /", verdict="not-run"),
    Case("host.expected", said("own.stack", "000000000000"), "host", verdict="degraded"),
    Case("host.expected", scene={"own": None}, part="host", verdict="degraded", says="none"),
    Case("host.expected", scene={"own": None, "own_fault": "no JSON"}, part="host", says="no JSON"),
]
