"""Every check sees both colours: green on a healthy host, red at the right part of a broken one."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from tests import reported
from tests.reported import DRIVER, KERNEL, Host, Ran, ask, changed, host, scene
from tests.sim import faults
from verify import own, xids
from verify.applies import NEEDS, Scene, applies
from verify.bundle import STAYS
from verify.checks import Check, Look
from verify.report.catalogue import catalogue
from verify.report.groups import REACHABLE

ROOM = Path(__file__).parent.parent / "verify"
MODULES = (
    *("test_gpu", "test_setting", "test_errors", "test_driver", "test_fabric"),
    *("test_stack", "test_env", "test_torch", "test_host"),
)


def checks() -> dict[str, Callable[..., None]]:
    """Every check of these modules by its id."""
    found = {}
    for name in MODULES:
        for value in vars(import_module(f"verify.{name}")).values():
            if isinstance(getattr(value, "check", None), Check):
                found[value.check.id] = value
    return found


CHECKS = checks()
HARDWARE = ("hgx-h100", "l40s", "v100", "none")


# ---- green


@pytest.mark.parametrize("hardware", HARDWARE)
@pytest.mark.parametrize("id", CHECKS)
def test_a_healthy_host_is_green(id: str, hardware: str) -> None:
    look = ask(CHECKS[id], scene(hardware))
    if isinstance(look, str):
        assert look  # not asked, and says why
        return
    assert look.verdict == "pass"
    assert look.findings == []


def test_every_check_is_asked_of_some_healthy_host() -> None:
    for id, check in CHECKS.items():
        assert any(isinstance(ask(check, scene(kind)), Look) for kind in HARDWARE), id


# ---- red


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


def no_persistence(there: Host) -> None:
    there.services.remove("nvidia-persistenced")


def no_fabric(there: Host) -> None:
    there.services.remove("nvidia-fabricmanager")


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
    Case("gpu.answers", gpu("recovery_action", 1), "gpu 1", action="reset", says="reset"),
    Case("gpu.answers", gpu("recovery_action", 9), "gpu 1", action="drain", says="9"),
    Case(
        "gpu.answers",
        both(gpu("recovery_action", 1), gpu("remap.pending", True)),
        "gpu 1",
        action="reset",
        because="gpu.remap-pending",
    ),
    Case(
        "gpu.answers",
        both(gpu("recovery_action", 2), xid(48)),
        "gpu 1",
        action="reboot",
        because="gpu.xid",
    ),
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
    Case("gpu.ecc", gpu("sram_threshold_exceeded", True), "gpu 1", action="service"),
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
    Case("gpu.xid", said("report.log.readable", False), "host", verdict="not-run"),
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
        there=lambda host: host.answers.update({"dpkg-query": Ran(127)}),
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
        there=lambda host: host.answers.update({"apt-cache": Ran(127)}),
    ),
    Case(
        "env.works",
        both(said("report.torch.state", "failed"), said("report.torch.error", "no such file")),
        "environment 0123456789ab",
        says="no such file",
    ),
    Case("env.works", said("report.torch.state", "hung"), "environment 0123456789ab", "hung"),
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


def named(component: dict[str, Any], of: Scene) -> str:
    """A component in the words of a case."""
    if component["kind"] != "gpu":
        return f"{component['kind']} {component['name']}".strip()
    assert of.record is not None
    for index, one in enumerate(reported.record("v100" if of.report["pci"]["nvswitches"] == []
                                               else "hgx-h100")["gpus"]):  # fmt: skip
        if one["uuid"] == component["uuid"] or one["slot"] == component["slot"]:
            return f"gpu {index}"
    return "gpu ?"


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_a_broken_host_is_red_at_the_right_part(case: Case) -> None:
    broken = changed(scene(case.hardware, **case.scene), case.change)
    there = host(broken)
    case.there(there)
    look = ask(CHECKS[case.id], broken, there)
    assert isinstance(look, Look), f"not asked: {look}"
    findings = look.document()
    assert findings
    parts = [named(one["component"], broken) for one in findings]
    wanted = case.part.replace(" gone", "").replace(" old", "")
    if wanted in ("environment", "driver"):
        assert all(part.startswith(wanted) for part in parts)
    else:
        assert ", ".join(dict.fromkeys(parts)) == wanted
    first = findings[0]
    assert first["verdict"] == case.verdict == look.verdict
    assert first["action"] == case.action
    assert {one["because"] for one in findings} == {case.because}
    assert case.says in first["found"]
    assert first["what"]


def test_every_check_has_a_red_case_that_is_its_own_cause() -> None:
    assert {case.id for case in CASES} == set(CHECKS)
    first = {case.id: case for case in reversed(CASES)}
    for id, case in first.items():
        assert case.because == "", id
        assert case.verdict != "not-run", f"{id}: its main fault must be seen, not unknown"


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_every_cause_that_is_named_is_a_finding_itself(case: Case) -> None:
    """Nothing is a consequence of a check that finds nothing: then no cause would be shown."""
    broken = changed(scene(case.hardware, **case.scene), case.change)
    there = host(broken)
    case.there(there)
    verdicts: dict[str, Look] = {}
    for id, check in CHECKS.items():
        look = ask(check, broken, there)
        if isinstance(look, Look):
            verdicts[id] = look
    causes = [
        (id, one.because) for id, look in verdicts.items() for one in look.findings if one.because
    ]
    for id, cause in causes:
        assert verdicts[cause].findings, f"{id} names {cause}, which is green"
    assert any(one.because == "" for look in verdicts.values() for one in look.findings)


# ---- the contract of a check


def test_ids_are_families_with_subjects_and_claims_are_sentences() -> None:
    for id, function in CHECKS.items():
        check: Check = function.check  # type: ignore[attr-defined]
        assert re.fullmatch(r"[a-z]+\.[a-z]+(-[a-z]+)*", id)
        assert check.claim.endswith("."), id
        assert check.source, id
        assert set(check.needs) <= NEEDS.keys(), id


def test_every_check_has_a_fault_that_the_simulated_fleet_knows() -> None:
    on_hosts = [check for id, check in catalogue().items() if id != REACHABLE]
    assert {check.id for check in on_hosts} > set(CHECKS)
    for check in on_hosts:
        kind, _ = faults.parse(check.fault)
        assert kind.name in faults.kinds()


def test_every_check_is_in_the_matrix_of_faults() -> None:
    from tests.fleet.test_verify_faults import MATRIX

    in_matrix = {row.check: row.fault for row in MATRIX}
    for id, function in CHECKS.items():
        assert in_matrix[id] == function.check.fault  # type: ignore[attr-defined]


TRAVELLING = [
    *(path for path in sorted(ROOM.glob("*.py")) if path.name not in STAYS),
    *sorted((ROOM / "payload").glob("*.py")),
]


@pytest.mark.parametrize("path", TRAVELLING, ids=lambda path: path.name)
def test_what_travels_needs_nothing_that_stays(path: Path) -> None:
    text = path.read_text()
    tree = ast.parse(text, feature_version=(3, 10))
    ours = {f"verify.{one.stem}" for one in TRAVELLING} | {"verify", "verify.payload"}
    ours |= {f"verify.payload.{one.stem}" for one in TRAVELLING}
    allowed = {"pytest", "testinfra", "pynvml", "torch", "packaging"} | set(sys.stdlib_module_names)
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [str(node.module)]
        else:
            continue
        for name in names:
            if path.name == "there.py" and name == "verify.bundle":
                continue  # only from outside, where everything is
            assert name in ours or name.partition(".")[0] in allowed, f"{path.name}: {name}"


# ---- what decides before a check


def test_a_higher_level_is_not_asked() -> None:
    check = Check("x.y", "Claim.", "standard", "keep", (), "source", "fault")
    answer = applies(check, scene())
    assert answer.kind == "not-asked"
    assert "standard" in answer.reason


def test_what_does_not_apply_goes_before_what_cannot_be_seen() -> None:
    """A V100 with a hung driver: rows to remap are still none of its business? It cannot be known:
    unknown never means that it does not apply."""
    hung = changed(scene("v100"), silent("hung"))
    check: Check = CHECKS["gpu.remap-pending"].check  # type: ignore[attr-defined]
    assert applies(check, hung).because == "nvml.answers"
    cpu = changed(hung, lambda parts: parts["expected"]["environment"].update(build="cpu"))
    check = CHECKS["torch.devices"].check  # type: ignore[attr-defined]
    assert applies(check, cpu).kind == "not-asked"


def test_a_busy_host_is_no_place_for_load_and_an_unknown_one_neither() -> None:
    jobs = said("report.holders.jobs", [{"id": "4711", "user": "trainer"}])
    busy = NEEDS["idle"](changed(scene(), jobs))
    assert busy.kind == "not-run"
    assert "job 4711 of trainer" in busy.reason
    unknown = both(said("report.holders.complete", False), said("report.holders.error", "EPERM"))
    answer = NEEDS["idle"](changed(scene(), unknown))
    assert answer.kind == "not-run"
    assert "EPERM" in answer.reason
    assert NEEDS["idle"](scene()).kind == "asked"


def test_without_an_expected_state_what_needs_one_is_not_asked_and_the_way_is_named() -> None:
    bare = scene(expected=None, expected_from="none", own=None)
    reason = ask(CHECKS["stack.packages"], bare, Host())
    assert isinstance(reason, str)
    assert "gpufleet adopt" in reason
    look = ask(CHECKS["env.works"], bare, Host())
    assert isinstance(look, Look)
    assert look.verdict == "pass"


def test_an_expected_state_that_cannot_be_used_is_a_finding_and_nothing_is_green_by_it() -> None:
    broken = scene(expected=None, expected_from="none", own=None, own_fault="no JSON")
    look = ask(CHECKS["stack.packages"], broken, Host())
    assert isinstance(look, Look)
    assert look.findings[0].because == "host.expected"
    assert isinstance(ask(CHECKS["host.expected"], broken, Host()), Look)


def test_a_host_that_lost_all_its_gpus_is_still_asked_for_them() -> None:
    empty = changed(scene(), both(said("report.pci.gpus", []), silent("failed", "No devices")))
    look = ask(CHECKS["gpu.count"], empty)
    assert isinstance(look, Look)
    assert len([one for one in look.findings if one.verdict == "fail"]) == 8


# ---- small things that decide much


@pytest.mark.parametrize(
    ("archs", "capability", "runs"),
    [
        (["sm_90"], (9, 0), True),
        (["sm_80"], (8, 9), True),  # the same major, an older minor
        (["sm_89"], (8, 0), False),  # a newer minor
        (["sm_80"], (9, 0), False),  # no machine code for another major
        (["compute_80"], (9, 0), True),  # PTX is compiled for it
        (["compute_120"], (9, 0), False),
        (["sm_90a"], (9, 0), True),
        (["sm_100a"], (10, 3), False),
        (["sm_100f"], (10, 3), True),
        (["sm_75", "sm_100", "compute_120"], (7, 0), False),
        (["sm_100"], (10, 0), True),
        (["nonsense", ""], (9, 0), False),
    ],
)
def test_code_for_a_compute_capability(
    archs: list[str], capability: tuple[int, int], runs: bool
) -> None:
    from verify.test_torch import covers

    assert covers(archs, capability) is runs


NAMED_IN_RESEARCH = {
    *(48, 56, 57, 58, 62, 63, 64, 65, 68, 69, 73, 74, 79, 80, 81, 92, 119, 120),
    *range(68, 78), *range(79, 87), 88, 89, *range(94, 106), *range(110, 121), *range(122, 126),
    *(54, 151, 168, 95, 109, 136, 140, 143, 155, 156, 158, 13, 31, 43, 94, 121, 126, 45, 154),
    *range(144, 151),
}  # fmt: skip
"""Verification 1.4 (Azure NHC's list, Imbue's ranges) and 1.12 (the action table)."""


def test_every_xid_that_peers_know_is_in_the_table() -> None:
    table = xids.table()
    # Azure's and Imbue's 78, 87 and 106 to 109 are not all named; those that are must be there.
    assert table.keys() >= NAMED_IN_RESEARCH
    for row in table.values():
        assert row["class"] in xids.CLASSES
        assert row["action"] in ("keep", "drain", "reset", "reboot", "service")
        assert row["meaning"]
        assert "20" in row["source"] or "research" in row["source"]
        assert row["class"] == "hardware" or row["action"] == "keep"
    applications = {id for id, row in table.items() if row["class"] == "application"}
    assert {13, 31, 43, 45} <= applications


@pytest.mark.parametrize("code", [13, 31, 43, 45, 63])
def test_an_applications_xid_is_looked_at_and_is_no_fault(code: int) -> None:
    look = ask(CHECKS["gpu.xid"], changed(scene(), xid(code)))
    assert isinstance(look, Look)
    assert look.verdict == "pass"
    assert any(f"Xid {code}" in one.what for one in look.observations)


def test_a_lost_gpu_that_says_nothing_of_itself_is_known_by_its_slot() -> None:
    nameless = changed(scene(), both(lost, gpu("slot", None)))
    look = ask(CHECKS["gpu.answers"], nameless)
    assert isinstance(look, Look)
    component = look.findings[0].component
    record = reported.record("hgx-h100")["gpus"][1]
    assert (component.index, component.uuid) == (1, record["uuid"])
    assert component.serial == record["serial"]


def test_the_expected_state_is_refused_with_every_fault_of_its_form() -> None:
    state = reported.expected("hgx-h100")
    assert own.faults(state) == []
    broken = {**state, "gpus": "8", "packages": {"x": 1}, "driver": {"version": 5}, "services": 1}
    assert len(own.faults(broken)) == 6
    assert own.faults({**state, "version": 2}) == ["its form has version 2, known is 1"]
    missing = {key: value for key, value in state.items() if key not in ("stack", "gpus")}
    assert own.faults(missing) == ["stack is missing"]


def test_the_hardware_that_a_lock_leaves_open_is_the_hosts_own() -> None:
    wanted = {**reported.expected("hgx-h100"), "gpus": None, "nvswitches": None}
    mine, record = reported.expected("hgx-h100"), reported.record("hgx-h100")
    assert own.filled(wanted, mine, None)["gpus"] == 8
    assert own.filled(wanted, None, record)["gpus"] == 8
    assert own.filled(wanted, None, None)["gpus"] is None
    assert own.filled({**wanted, "gpus": 7}, mine, record)["gpus"] == 7


def test_tables_of_apt_are_read_as_apt_prints_them() -> None:
    from verify.test_stack import main_repository, policies

    text = (
        "libnccl2:\n  Installed: 2.29.7-1+cuda13.0\n  Candidate: 2.99.1-1+other\n"
        "  Version table:\n     2.99.1-1+other 500\n"
        "        500 file:/var/lib/other ./ Packages\n"
        " *** 2.29.7-1+cuda13.0 500\n"
        "        500 http://10.77.0.1/cuda  Packages\n"
        "        100 /var/lib/dpkg/status\n"
        "libcuda1:amd64:\n  Installed: (none)\n  Candidate: (none)\n  Version table:\n"
    )
    tables = policies(text)
    assert tables["libnccl2"].offers["2.99.1-1+other"] == ["file:/var/lib/other"]
    assert tables["libnccl2"].offers["2.29.7-1+cuda13.0"] == ["http://10.77.0.1/cuda"]
    assert tables["libcuda1"].installed == ""
    assert main_repository(tables) == "http://10.77.0.1/cuda"


def test_a_host_that_expects_something_else_says_what() -> None:
    def drifted(parts: dict[str, Any]) -> None:
        parts["own"]["packages"]["libnvidia-ml1"] = "1-1"
        del parts["own"]["packages"]["nvidia-fabricmanager"]
        parts["own"]["host"] = "another name"

    look = ask(CHECKS["host.expected"], changed(scene(), drifted))
    assert isinstance(look, Look)
    (finding,) = look.findings
    assert finding.evidence == (
        f"packages.libnvidia-ml1: 1-1, locked is {DRIVER}-1",
        f"packages.nvidia-fabricmanager: nothing, locked is {DRIVER}-1",
    )
    assert "2 of its values differ" in finding.found
