"""The driver: it answers, it is one version everywhere, and it is there after the next boot."""

from __future__ import annotations

from typing import Any

from verify.applies import Scene
from verify.checks import Component, Look, check
from verify.versions import stale, upstream

MISMATCH = "version mismatch"
"""NVML's words when the library is newer or older than the loaded module
(NVML_ERROR_LIB_RM_VERSION_MISMATCH: "Driver/library version mismatch", "RM has detected an
NVML/RM version mismatch")."""
NVML = Component(kind="driver", name="NVML")
NVIDIA = Component(kind="driver", name="nvidia")
RELOAD = "stop what uses the GPUs and reload the module, or reboot: gpufleet apply --reboot"


@check(
    "nvml.answers",
    component="driver",
    verdict="hung",
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
    component="driver",
    needs=("driver",),
    action="reboot",
    source="NVIDIA/deepops issue 1186, lyulyul/shine-cluster issues 30 and 50: an upgrade under a "
    "loaded module makes NVML fail until a reboot",
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


@check(
    "driver.flavour",
    component="driver",
    needs=("driver", "locked-driver"),
    action="reboot",
    source="NVIDIA, supported-gpus.json of the driver, which GPUs take open modules; proprietary "
    "ones end with branch 610 (R620 installation guide, 4.1)",
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
    component="driver",
    needs=("gpus",),
    action="reboot",
    source="ours: NVIDIA's module cannot bind what nouveau holds",
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
    component="driver",
    needs=("driver",),
    source="ours: what breaks at the next reboot is said before it; GoogleCloudPlatform/ops-agent "
    "PR 2426: a driver that does not build on the next kernel",
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
