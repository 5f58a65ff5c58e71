"""Whether a check makes sense on a host: decided before the run, from what is known. Pure.

Travels to the host: standard library only, Python 3.10. A check that does not apply is *not
asked*, with the reason. One that applies and cannot be looked at is *not-run*, and names the check
whose finding explains it where there is one. Unknown never means that it does not apply.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from verify.checks import BY_NAME, LEVELS, Check

COMPLETED = 3
"""NVML's state of a GPU that is registered with its fabric (NVML_GPU_FABRIC_STATE_COMPLETED)."""


@dataclass(frozen=True)
class Scene:
    """All that is known of a host before its checks are asked."""

    asked: dict[str, Any]
    """The request: host, level, prefix ..."""
    report: dict[str, Any]
    """What verify/payload/host_report.py says."""
    expected: dict[str, Any] | None
    expected_from: str
    """lock, host, file or none."""
    own: dict[str, Any] | None
    """The host's own expected state."""
    own_fault: str
    """Why the host's own expected state cannot be used; "" when it can or there is none."""
    record: dict[str, Any] | None
    """GPUs of the last good run."""
    record_fault: str


@dataclass(frozen=True)
class Answer:
    """asked, or else why not, and for not-run the check whose finding explains it."""

    kind: str = "asked"
    reason: str = ""
    because: str = ""


ASKED = Answer()


def not_asked(reason: str) -> Answer:
    """It makes no sense here."""
    return Answer("not-asked", reason)


def not_run(reason: str, because: str = "") -> Answer:
    """It makes sense here and cannot be looked at."""
    return Answer("not-run", reason, because)


def of_level(mine: str, asked: str) -> bool:
    """Whether a check of one level is part of another; what is asked by name is part of itself."""
    if mine in BY_NAME or asked in BY_NAME:
        return mine == asked
    return LEVELS.index(mine) <= LEVELS.index(asked)


def applies(check: Check, scene: Scene) -> Answer:
    """Whether a check is asked of a host; what does not apply goes before what cannot be seen."""
    level = scene.asked["level"]
    if not of_level(check.level, level):
        return not_asked(f"level {check.level} asks it; this is {level}")
    answers = [NEEDS[need](scene) for need in check.needs]
    for kind in ("not-asked", "not-run"):
        for answer in answers:
            if answer.kind == kind:
                return answer
    return ASKED


Need = Callable[[Scene], Answer]


def _after(earlier: Need) -> Callable[[Need], Need]:
    """A need that builds on another: asked when that one is, else its answer is this one's too."""

    def mark(need: Need) -> Need:
        def answer(scene: Scene) -> Answer:
            before = earlier(scene)
            return need(scene) if before == ASKED else before

        return answer

    return mark


# ---- hardware and driver


def _gpus(scene: Scene) -> Answer:
    report, expected = scene.report, scene.expected or {}
    if report["pci"]["gpus"] or report["nvml"]["gpus"] or expected.get("gpus") or scene.record:
        return ASKED
    if report["pci"]["error"]:
        return not_run(f"the PCI bus could not be read: {report['pci']['error']}")
    return not_asked("no NVIDIA GPU is on the PCI bus, and none is expected")


@_after(_gpus)
def _driver(scene: Scene) -> Answer:
    modules = scene.report["modules"]
    unwanted = scene.expected is not None and scene.expected["driver"] is None
    if unwanted and not any(modules[key] for key in ("error", "loaded", "installed")):
        return not_asked("no driver is expected on this host, and there is none")
    return ASKED


@_after(_driver)
def _nvml(scene: Scene) -> Answer:
    nvml = scene.report["nvml"]
    if nvml["state"] == "ok":
        return ASKED
    return not_run(f"NVML did not answer ({nvml['state']})", because="nvml.answers")


def _nvswitches(scene: Scene) -> Answer:
    report, expected = scene.report, scene.expected or {}
    if report["pci"]["nvswitches"] or expected.get("nvswitches") or expected.get("fabric"):
        return ASKED
    if report["pci"]["error"]:
        return not_run(f"the PCI bus could not be read: {report['pci']['error']}")
    return not_asked("no NVSwitch is on the PCI bus, and none is expected")


def hidden_by_mig(gpu: dict[str, Any], field: str) -> bool:
    """A partitioned GPU does not tell of itself what a whole one of its kind tells."""
    return bool(gpu["mig"]) and field in ("ecc", "remap") and gpu[field] is None


def _some(field: str, without: str) -> Need:
    """Some GPU has `field`, or answers nothing at all: then the check says what it cannot see."""

    @_after(_nvml)
    def answer(scene: Scene) -> Answer:
        for gpu in scene.report["nvml"]["gpus"]:
            if gpu["lost"] or gpu[field] is not None or field in gpu["errors"]:
                return ASKED
            if hidden_by_mig(gpu, field):
                return ASKED
        return not_asked(without)

    return answer


def told_of(gpu: dict[str, Any], path: str) -> Any:
    """A value of a GPU by its dotted path, as heat.gpu; None when there is none."""
    name, _, rest = path.partition(".")
    whole = gpu[name]
    return whole.get(rest) if rest and whole is not None else whole


def _told(path: str, without: str) -> Need:
    """Some GPU tells the value, or cannot be read; else the question makes no sense."""

    @_after(_nvml)
    def answer(scene: Scene) -> Answer:
        for gpu in scene.report["nvml"]["gpus"]:
            failed = gpu["lost"] or {path, path.partition(".")[0]} & gpu["errors"].keys()
            if failed or told_of(gpu, path) is not None:
                return ASKED
        return not_asked(without)

    return answer


def _heat(scene: Scene) -> Answer:
    """Before Ada a GPU tells the temperature at which it slows down, since then what is left."""
    threshold = _told("heat.slowdown", "")(scene)
    if threshold.kind != "not-asked":
        return threshold
    return _told("heat.margin", "no GPU here tells from which temperature on it slows down")(scene)


def _memory(scene: Scene) -> Answer:
    gpus = scene.report["nvml"]["gpus"]
    if gpus and all(gpu["mig"] for gpu in gpus):
        return not_asked("every GPU is partitioned: NVML counts memory per slice")
    return _told("memory.used_mib", "this driver does not tell its own memory from programs'")(
        scene
    )


@_after(_nvml)
def _pcie_errors(scene: Scene) -> Answer:
    if any((gpu["bus"] or {}).get("aer") for gpu in scene.report["nvml"]["gpus"]):
        return ASKED
    without = "neither the kernel nor NVML counts errors of these links"
    return _told("pcie.replays", without)(scene)


def _nvlink_errors(scene: Scene) -> Answer:
    links = _told("nvlinks", "no GPU here has NVLinks")(scene)
    if links != ASKED:
        return links
    for gpu in scene.report["nvml"]["gpus"]:
        counters = (gpu["nvlinks"] or {}).get("errors", {}).values()
        if gpu["lost"] or gpu["errors"] or any(one is not None for one in counters):
            return ASKED
    return not_asked("NVML counts no errors of these links")


def _fabric_health(scene: Scene) -> Answer:
    switches = _nvswitches(scene)
    if switches.kind == "not-asked" and any(
        (gpu["fabric"] or {}).get("state") == COMPLETED for gpu in scene.report["nvml"]["gpus"]
    ):
        switches = ASKED  # racks have their switches elsewhere
    nvml = _nvml(scene)
    for answer in (switches, nvml):
        if answer != ASKED:
            return answer
    for gpu in scene.report["nvml"]["gpus"]:
        if gpu["lost"] or "fabric" in gpu["errors"] or fabric_told(gpu):
            return ASKED
    return not_asked("this driver does not tell the health of the fabric")


def fabric_told(gpu: dict[str, Any]) -> bool:
    """Its driver says something of the fabric's health: no bit of it set means that it does not."""
    fabric = gpu["fabric"] or {}
    return bool(fabric.get("health") or fabric.get("summary"))


def _persistence(scene: Scene) -> Answer:
    if (scene.expected or {}).get("persistence") is False:
        return not_asked("the inventory leaves it as it is (persistence = False)")
    return _nvml(scene)


def _record(scene: Scene) -> Answer:
    if scene.record_fault:
        return not_run(f"{scene.record_fault}; gpufleet verify --accept-hardware writes it anew")
    if scene.record is None:
        return not_asked("no good run is recorded yet; this one becomes it when all is well")
    return ASKED


# ---- the host around its GPUs


def _network(scene: Scene) -> Answer:
    network = scene.report["network"]
    wanted = (scene.expected or {}).get("network_ports")
    if network["ports"] or wanted or (scene.record or {}).get("ports"):
        return ASKED
    if network["error"]:
        return not_run(f"network ports could not be read: {network['error']}")
    return not_asked("no InfiniBand, RoCE or EFA port is here, and none is expected")


def _links(scene: Scene) -> Answer:
    network = scene.report["network"]
    if network["error"]:
        return not_run(f"network ports could not be read: {network['error']}")
    if all(one["driver"] == "efa" for one in network["ports"]):
        return not_asked("no port here counts losses of its link (EFA does not)")
    return ASKED


def _gpudirect(scene: Scene) -> Answer:
    """GeForce boards give no other device their memory (NVIDIA, GPUDirect RDMA: data center and
    workstation GPUs); EFA's driver brings its own way."""
    gpus, ports = scene.report["nvml"]["gpus"], scene.report["network"]["ports"]
    if not scene.report["pci"]["gpus"] and not scene.report["pci"]["error"]:
        return not_asked("no NVIDIA GPU is on the PCI bus")
    if gpus and all("GeForce" in (one["name"] or "") for one in gpus):
        return not_asked("GeForce GPUs know no GPUDirect RDMA")
    if ports and all(one["driver"] == "efa" for one in ports):
        return not_asked("EFA's driver has its own way to the GPUs' memory")
    return ASKED


def _peers(scene: Scene) -> Answer:
    """GeForce boards exchange nothing over PCIe directly: their driver offers no peer access
    (tinygrad/open-gpu-kernel-modules is a fork to add it)."""
    pci, gpus = scene.report["pci"], scene.report["nvml"]["gpus"]
    if gpus and all("GeForce" in (one["name"] or "") for one in gpus):
        return not_asked("GeForce GPUs exchange nothing over the bus directly")
    if pci["error"] or len(pci["gpus"]) > 1 or scene.report["network"]["ports"]:
        return ASKED
    return not_asked("there is no other device that the GPU could exchange data with directly")


def _bare_metal(scene: Scene) -> Answer:
    virtual = scene.report["host"]["virtual"]
    if virtual is None:
        return not_run("whether this is a virtual machine could not be told")
    if virtual:
        return not_asked("a virtual machine: what is above its GPUs is the hypervisor's")
    return ASKED


def _cpufreq(scene: Scene) -> Answer:
    processors = scene.report["processors"]
    if processors["governors"]:
        return ASKED
    if processors["error"]:
        return not_run(f"processors could not be read: {processors['error']}")
    return not_asked("this kernel does not set the processors' frequency (no cpufreq)")


def _kernel_log(scene: Scene) -> Answer:
    """Where there are no GPUs, no event of theirs is missed in a log that a container does not
    have, or that a user without root is not shown."""
    if scene.report["kernel_lines"]["readable"] or _gpus(scene).kind != "not-asked":
        return ASKED
    error = scene.report["kernel_lines"]["error"]
    return not_asked(f"the kernel's log is not shown here ({error}), and no GPU writes into it")


def _error_counters(scene: Scene) -> Answer:
    log, memory = _kernel_log(scene), scene.report["memory_errors"]
    return ASKED if memory["controllers"] or memory["error"] else log


@_after(_record)
def _hardware_record(scene: Scene) -> Answer:
    if not (scene.record or {}).get("host"):
        return not_asked("the last good run did not record memory and processors; the next will")
    return ASKED


# ---- expected state


def _expected(scene: Scene) -> Answer:
    if scene.expected is not None:
        return ASKED
    if scene.own_fault:
        return not_run(scene.own_fault, because="host.expected")
    return not_asked(
        "no expected state: no lock was given and the host has none of its own; "
        "`gpufleet adopt` or `gpufleet apply` writes it"
    )


@_after(_expected)
def _mounts(scene: Scene) -> Answer:
    if (scene.expected or {}).get("mounts"):
        return ASKED
    return not_asked("the inventory names no mount points that jobs need (`mounts`)")


def _own_state(scene: Scene) -> Answer:
    if scene.own_fault or scene.expected_from in {"lock", "file"}:
        return ASKED
    return not_asked("no lock was given that the host's own expected state could differ from")


def _expected_part(key: str, without: str) -> Need:
    @_after(_expected)
    def answer(scene: Scene) -> Answer:
        assert scene.expected is not None
        return ASKED if scene.expected[key] else not_asked(without)

    return answer


# ---- environment


OTHER = "--env names another environment than the lock's"


def locked_environment(scene: Scene) -> dict[str, Any] | None:
    """The environment of the expected state, None without one or where --env names another."""
    if scene.asked["env"]:
        return None
    environment: dict[str, Any] | None = (scene.expected or {}).get("environment")
    return environment


def _locked_environment(scene: Scene) -> Answer:
    if scene.asked["env"]:
        return not_asked(OTHER)
    return _expected_part("environment", "no Python environment is expected")(scene)


def _environment(scene: Scene) -> Answer:
    if scene.asked["env"]:
        return ASKED
    if scene.expected is not None:
        if scene.expected["environment"] is not None:
            return ASKED
        return not_asked("no Python environment is expected on this host")
    if scene.report["torch"]["state"] == "absent":
        prefix = scene.asked["prefix"]
        return not_asked(f"no Python environment at {prefix}/env, and none is expected")
    return ASKED


@_after(_environment)
def _torch(scene: Scene) -> Answer:
    torch = scene.report["torch"]
    if torch["state"] == "ok":
        return ASKED
    return not_run(f"torch did not answer ({torch['state']})", because="env.works")


@_after(_torch)
def _cuda_build(scene: Scene) -> Answer:
    build = (locked_environment(scene) or {}).get("build", "")
    if build == "cpu" or (not build and scene.report["torch"]["cuda"] is None):
        return not_asked("torch's CPU build uses no GPU")
    return ASKED


def _idle(scene: Scene) -> Answer:
    busy = who(scene.report)
    if busy:
        return not_run(f"busy: {'; '.join(busy[:3])}; no load is put on a host in use")
    if scene.asked["via"]:  # a job has the host to itself: the scheduler sees to it
        return ASKED
    if not scene.report["holders"]["complete"]:
        error = scene.report["holders"]["error"]
        return not_run(f"who uses the GPUs could not be read: {error}; no load is put on it")
    return ASKED


def _dcgm(scene: Scene) -> Answer:
    dcgm = scene.report["dcgm"]
    if dcgm["error"]:
        return not_run(f"whether DCGM is there could not be read: {dcgm['error']}")
    if not dcgm["installed"]:
        return not_asked("dcgmi is not installed; the inventory key dcgm installs it")
    if not dcgm["running"]:
        return not_asked("DCGM's host engine does not run; systemctl start nvidia-dcgm starts it")
    return _nvml(scene)


def _rendezvous(scene: Scene) -> Answer:
    if scene.asked["rendezvous"] is not None:
        return ASKED
    return not_asked("this host takes no part in this test across hosts")


def who(report: dict[str, Any]) -> list[str]:
    """Who uses the GPUs of a host, one line each: Slurm's jobs, then processes."""
    lines = [f"job {job['id']} of {job['user']}" for job in report["holders"]["jobs"]]
    for process in report["holders"]["processes"]:
        gpus = ", ".join(str(index) for index in process["gpus"])
        on = f" on GPU {gpus}" if gpus else ""
        lines.append(f"{process['command']} (pid {process['pid']}) of {process['user']}{on}")
    # Without root the files of other users' processes are closed to us; NVML tells their ids.
    known = {process["pid"] for process in report["holders"]["processes"]}
    for gpu in report["nvml"]["gpus"]:
        for one in gpu["processes"] or []:
            if one["pid"] not in known:
                lines.append(f"a process (pid {one['pid']}) on GPU {gpu['index']}, by NVML's word")
    return lines


NEEDS: dict[str, Need] = {
    "rendezvous": _rendezvous,
    "gpus": _gpus,
    "driver": _driver,
    "nvml": _nvml,
    "nvswitches": _nvswitches,
    "ecc": _some("ecc", "no GPU here has error correction that NVML can count"),
    # Which GPUs remap and which retire: docs.nvidia.com, "GPU Memory Error Management".
    # NVML itself says what a GPU has.
    "remap": _some(
        "remap",
        "rows are remapped from Ampere on (compute capability 8.0); gpu.retired-pages asks",
    ),
    "retired": _some(
        "retired",
        "pages are retired before Ampere only (compute capability 8.0); gpu.remap-* ask",
    ),
    "mig": _some("mig", "no GPU here can be partitioned"),
    "sram": _told("sram", "no GPU here tells the errors of its caches (Ampere and newer do)"),
    "recovery": _told("recovery_action", "this driver tells no action (570 and newer do)"),
    "clocks": _told("clocks.reasons", "no GPU here tells why its clocks are low"),
    "heat": _heat,
    "power": _told("power.enforced", "no GPU here has a limit of power"),
    "pcie-gen": _told("pcie.gen_max", "no GPU here tells the generation of its link"),
    "pcie-errors": _pcie_errors,
    "nvlinks": _told("nvlinks", "no GPU here has NVLinks"),
    "nvlink-errors": _nvlink_errors,
    "compute-mode": _told("compute_mode", "no GPU here has a compute mode"),
    "memory": _memory,
    "fabric-health": _fabric_health,
    "persistence": _persistence,
    "record": _record,
    "expected": _expected,
    "own-state": _own_state,
    "locked-driver": _expected_part("driver", "no driver is expected on this host"),
    "locked-packages": _expected_part("packages", "no package is locked for this host"),
    "locked-environment": _locked_environment,
    "environment": _environment,
    "torch": _torch,
    "cuda-build": _cuda_build,
    "idle": _idle,
    "dcgm": _dcgm,
    "network": _network,
    "links": _links,
    "gpudirect": _gpudirect,
    "peers": _peers,
    "bare-metal": _bare_metal,
    "cpufreq": _cpufreq,
    "kernel-log": _kernel_log,
    "error-counters": _error_counters,
    "hardware-record": _hardware_record,
    "mounts": _mounts,
}
"""What a check may need: name -> whether it is there, and why not."""
