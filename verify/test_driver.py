"""The driver: it answers, it is one version everywhere, and it is there after the next boot."""

from __future__ import annotations

from typing import Any

from verify.applies import COMPLETED, Scene
from verify.checks import HOST, Component, Look, check
from verify.gpus import answering, part, readable

MISMATCH = "version mismatch"
"""NVML's words when the library is newer or older than the loaded module
(NVML_ERROR_LIB_RM_VERSION_MISMATCH: "Driver/library version mismatch", "RM has detected an
NVML/RM version mismatch")."""
NVML = Component(kind="driver", name="NVML")
NVIDIA = Component(kind="driver", name="nvidia")
RELOAD = "stop what uses the GPUs and reload the module, or reboot: gpufleet apply --reboot"


def stale(scene: Scene) -> bool:
    """The loaded module is not the installed one: somebody upgraded and did not reboot."""
    modules, running = scene.report["modules"], scene.report["kernel"]["running"]
    loaded = modules["loaded"].get("nvidia", "")
    installed = modules["installed"].get(running, {}).get("version", "")
    return bool(loaded and installed) and loaded != installed


@check(
    "nvml.answers",
    needs=("driver",),
    action="reboot",
    source="NVML API: return codes; a wedged driver: NVSentinel issues 1574 and 1576",
    fault="nvml-hang",
)
def test_nvml(scene: Scene, look: Look) -> None:
    """NVML answers, and in time."""
    nvml, loaded = scene.report["nvml"], scene.report["modules"]["loaded"]
    if nvml["state"] == "hung":
        why = f"no answer for {nvml['seconds']} s; it was asked for: {nvml['stage'] or 'its start'}"
        look.unknown(NVML, "NVML", why=why, hung=True)
        return
    wanted, action = "an answer", "reboot"
    if nvml["state"] == "absent":
        wanted, action = "libnvidia-ml.so.1, of the driver's packages; `gpufleet apply`", "keep"
    elif "nvidia" not in loaded:
        wanted, action = "the nvidia module loaded; `modprobe nvidia` says why it is not", "keep"
    elif MISMATCH in nvml["error"].lower():
        wanted = f"library and loaded module ({loaded['nvidia']}) of one version: {RELOAD}"
    look.at(
        NVML,
        "NVML",
        found="an answer" if nvml["state"] == "ok" else nvml["error"] or nvml["state"],
        expected=wanted,
        held=nvml["state"] == "ok",
        action=action,
        because=_why_silent(scene),
    )


def _why_silent(scene: Scene) -> str:
    """The check that explains why NVML gives no answer; "" when none does."""
    loaded = scene.report["modules"]["loaded"]
    if "nouveau" in loaded and "nvidia" not in loaded:
        return "driver.nouveau"
    mismatch = MISMATCH in scene.report["nvml"]["error"].lower()
    return "driver.version" if mismatch and stale(scene) else ""


@check(
    "driver.version",
    needs=("driver",),
    action="reboot",
    source="research: verification 1.2 (nobody compares them before NVML fails), provisioning 2.6",
    fault="stale-module",
)
def test_version(scene: Scene, host: Any, look: Look) -> None:
    """Loaded module, installed module, NVML, package and expected version are one."""
    modules, nvml = scene.report["modules"], scene.report["nvml"]
    if modules["error"]:
        look.unknown(NVIDIA, "modules", why=modules["error"])
        return
    loaded = modules["loaded"].get("nvidia", "")
    running = scene.report["kernel"]["running"]
    installed = modules["installed"].get(running, {}).get("version", "")
    if not loaded:
        look.unknown(NVIDIA, "loaded module", why="none is loaded", because="nvml.answers")
    else:
        look.at(
            NVIDIA,
            f"module installed for the running kernel {running}",
            found=installed or "none",
            expected=f"{loaded}, as loaded" if installed != loaded else installed,
            held=installed == loaded,
            action="reboot" if installed else "keep",
            evidence=(RELOAD,) if installed else (f"no module for {running}: gpufleet apply",),
        )
        if nvml["state"] == "ok":
            look.at(NVIDIA, "version that NVML says", found=nvml["driver"], expected=loaded)
    wanted = (scene.expected or {}).get("driver")
    if wanted is None:
        return
    if loaded:
        look.at(
            NVIDIA,
            "loaded module",
            found=loaded,
            expected=wanted["version"],
            baseline=scene.expected_from,
            evidence=(f"installed for {running}: {installed or 'none'}", RELOAD),
        )
    for name, version in module_packages(scene, host).items():
        look.at(
            Component(kind="package", name=name),
            "version of the installed driver package",
            found=version or "not installed",
            expected=wanted["version"],
            held=upstream(version) == wanted["version"],
            action="keep",
            baseline=scene.expected_from,
            because="stack.packages" if version != (scene.expected or {})["packages"][name] else "",
        )


def module_packages(scene: Scene, host: Any) -> dict[str, str]:
    """The expected packages that bring the module -> installed version, "" when there is none."""
    names = [name for name in (scene.expected or {}).get("packages", {}) if "dkms" in name]
    found = {}
    for name in names:
        package = host.package(name)
        found[name] = str(package.version) if package.is_installed else ""
    return found


def upstream(version: str) -> str:
    """A Debian version without epoch and revision: 580.178.04 of 580.178.04-1."""
    without_epoch = version.rpartition(":")[2]
    return without_epoch.rpartition("-")[0] or without_epoch


@check(
    "driver.flavour",
    needs=("driver", "locked-driver"),
    action="reboot",
    source="research: provisioning 2.4: open from Turing on, proprietary before; never mixed",
    fault="wrong-flavour",
)
def test_flavour(scene: Scene, look: Look) -> None:
    """The loaded module is open or proprietary as the host's GPUs need it."""
    modules, expected = scene.report["modules"], scene.expected
    assert expected is not None
    if not modules["loaded"].get("nvidia"):
        look.unknown(NVIDIA, "flavour", why="no module is loaded", because="nvml.answers")
        return
    wanted = expected["driver"]["flavour"]
    if modules["flavour"] == "unknown":
        why = modules["error"] or "the loaded module does not say"
        look.unknown(NVIDIA, "flavour of the loaded module", why=why)
    else:
        look.at(
            NVIDIA,
            "flavour of the loaded module",
            found=modules["flavour"],
            expected=wanted,
            baseline=scene.expected_from,
        )


@check(
    "driver.nouveau",
    needs=("gpus",),
    action="reboot",
    source="research: provisioning 2.8: NVIDIA's module cannot bind what nouveau holds",
    fault="nouveau",
)
def test_nouveau(scene: Scene, look: Look) -> None:
    """The nouveau driver is not loaded."""
    modules = scene.report["modules"]
    if modules["error"]:
        look.unknown(Component(kind="driver", name="nouveau"), "module", why=modules["error"])
        return
    held = [one["slot"] for one in scene.report["pci"]["gpus"] if one["driver"] == "nouveau"]
    look.at(
        Component(kind="driver", name="nouveau"),
        "module",
        found="loaded" if "nouveau" in modules["loaded"] else "not loaded",
        expected="not loaded",
        evidence=[f"holds {slot}" for slot in held],
    )


@check(
    "driver.next-boot",
    needs=("driver",),
    source="research: provisioning 4.4: what breaks at the next reboot, nobody says",
    fault="next-kernel",
)
def test_next_boot(scene: Scene, look: Look) -> None:
    """No reboot is pending, and the driver is there for the kernel that boots next."""
    kernel, modules = scene.report["kernel"], scene.report["modules"]
    for reason in kernel["reboot_required"]:
        look.at(
            Component(kind="package", name=reason),
            "reboot asked for",
            found="pending",
            expected="none",
            verdict="degraded",
            action="reboot",
        )
    following = Component(kind="driver", name=f"nvidia for {kernel['next']}")
    if modules["error"] or not kernel["next"]:
        look.unknown(following, "module", why=modules["error"] or "the next kernel is unknown")
        return
    wanted = (scene.expected or {}).get("driver") or {}
    version = wanted.get("version") or modules["loaded"].get("nvidia", "")
    # Of the running kernel's module driver.version says what is wrong with it.
    because = "driver.version" if kernel["next"] == kernel["running"] else ""
    found = modules["installed"].get(kernel["next"], {}).get("version", "")
    look.at(
        following,
        "module for the kernel that boots next",
        found=found or "none",
        expected=version or "one",
        held=bool(found) and found == (version or found),
        because=because,
        evidence=(f"running is {kernel['running']}", "gpufleet apply builds it"),
    )


@check(
    "fabric.manager",
    needs=("driver", "nvswitches"),
    source="CUDA error 802, dstackai/dstack issue 2348; research: provisioning 2.8",
    fault="fabric-stopped",
)
def test_fabric(scene: Scene, host: Any, gpus: list[dict[str, Any]], look: Look) -> None:
    """The fabric manager runs at the driver's version, and every GPU is in its fabric."""
    unit = _unit(scene)
    service = Component(kind="service", name=unit)
    running = look.at(
        service,
        "service",
        found="running" if host.service(unit).is_running else "not running",
        expected="running",
        evidence=(f"journalctl -u {unit}", "CUDA fails with error 802 without it"),
    )
    loaded = scene.report["modules"]["loaded"].get("nvidia", "")
    name, version = _fabric_package(scene, host)
    if not loaded:
        look.unknown(service, "version", why="no driver is loaded", because="nvml.answers")
    elif not version:
        look.unknown(service, "version", why="no package of it is installed")
    else:
        look.at(
            service,
            "version of the fabric manager",
            found=upstream(version),
            expected=loaded,
            because=_why_other(scene, name, version),
        )
    if scene.report["nvml"]["state"] != "ok":
        why = "NVML did not answer"
        look.unknown(HOST, "state of the GPUs in the fabric", why=why, because="nvml.answers")
        return
    for gpu in answering(gpus, scene, look):
        if not readable(gpu, "fabric", "state in the fabric", look):
            continue
        fabric = gpu["fabric"]
        good = fabric["state"] == COMPLETED and fabric["status"] == 0
        if not running:
            why = f"state {fabric['state']}: no fabric manager runs"
            if not good:
                look.unknown(part(gpu), "state in the fabric", why=why, because="fabric.manager")
            continue
        look.at(
            part(gpu),
            "state in the fabric",
            found="completed" if good else f"state {fabric['state']}, status {fabric['status']}",
            expected="completed",
        )


def _unit(scene: Scene) -> str:
    services = (scene.expected or {}).get("services", [])
    return next((str(one) for one in services if "fabricmanager" in one), "nvidia-fabricmanager")


def _fabric_package(scene: Scene, host: Any) -> tuple[str, str]:
    loaded = scene.report["modules"]["loaded"].get("nvidia", "")
    names = [name for name in (scene.expected or {}).get("packages", {}) if "fabricmanager" in name]
    # Before branch 580 the package carried the branch in its name (research: provisioning 2.6).
    names += ["nvidia-fabricmanager", f"nvidia-fabricmanager-{loaded.partition('.')[0]}"]
    for name in names:
        package = host.package(name)
        if package.is_installed:
            return name, str(package.version)
    return "", ""


def _why_other(scene: Scene, name: str, version: str) -> str:
    """What explains that the fabric manager is not of the loaded module's version; "" nothing."""
    if version != (scene.expected or {}).get("packages", {}).get(name, version):
        return "stack.packages"
    return "driver.version" if stale(scene) else ""
