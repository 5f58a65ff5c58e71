"""Every hazard red, and green right beside: what the same host says without it."""

from typing import Any

import pytest

from deploy.facts import AutoUpgrades, Candidate, NodeFacts, Package, Pin, Service
from deploy.fleet.spec import NodeSpec
from deploy.hazards import warnings
from deploy.layers.pins import PATH
from deploy.packages import locked
from deploy.stack import PackagePin, Stack
from deploy.steps import Wanted
from tests import factory
from tests.factory import facts, solved

PREFERENCES = "/etc/apt/preferences.d/"
VENDOR = "https://developer.download.nvidia.com/compute/cuda/repos/debian12/x86_64"


def debian(**changes: Any) -> Stack:
    found = solved("l40s")
    assert found.repository is not None
    repository = found.repository.model_copy(update={"url": VENDOR})
    return found.model_copy(update={"repository": repository, **changes})


def rhel() -> Stack:
    """The same parts as a rhel9 host has them."""
    found = debian()
    assert found.driver is not None
    full = "3:580.178.04-1.el9"
    names = ("kmod-nvidia-open-dkms", "nvidia-driver-cuda")
    driver = found.driver.model_copy(
        update={
            "packages": {name: PackagePin(version=full, size=0) for name in names},
            "pinning": {},
            "stream": "nvidia-driver:580-open",
        }
    )
    parts = dict.fromkeys(("cuda", "cudnn", "nccl"))
    return found.model_copy(
        update={"distribution": "rhel9", "packaging": "dnf", "driver": driver, **parts}
    )


def told(found: NodeFacts, stack: Stack | None = None) -> list[str]:
    return warnings(Wanted(host="h1", spec=NodeSpec(), stack=stack or debian()), found)


def pin(name: str, package: str, what: str, priority: int) -> Pin:
    path = name if name.startswith("/") else PREFERENCES + name
    return Pin(path=path, package=package, pin=what, priority=priority)


def converged(stack: Stack | None = None, **changes: Any) -> NodeFacts:
    """A host with every locked package installed, and these beside."""
    held = changes.pop("held", ())
    more = changes.pop("more", {})
    versions = {name: one.version for name, one in locked(stack or debian()).items()} | more
    packages = {
        name: Package(version=version, state="hi" if name in held else "ii", held=name in held)
        for name, version in versions.items()
    }
    return facts("l40s", packages=packages, **changes)


EXACT = locked(debian())["nvidia-driver-cuda"].version

RED_APT: dict[str, tuple[dict[str, Any], str]] = {
    "a negative pin of the vendor's packages, read before ours": (
        {"pins": (pin("block", "nvidia-*", "origin developer.download.nvidia.com", -1),)},
        "is read before the locked versions' pins and decides for nvidia-driver-cuda",
    ),
    "the main file is read before every other": (
        {"pins": (pin("/etc/apt/preferences", "libcuda1", "version *", 500),)},
        "/etc/apt/preferences: `Package: libcuda1`",
    ),
    "a glob of versions at our priority keeps a branch, not a version": (
        {"pins": (pin("a.pref", "nvidia-driver-cuda", "version 580.*", 1001),)},
        "decides for nvidia-driver-cuda",
    ),
    "a regular expression": (
        {"pins": (pin("a.pref", "/^nvidia-driver/", "version *", 990),)},
        "decides for nvidia-driver-cuda",
    ),
    "a release of the vendor's": (
        {"pins": (pin("a.pref", "libcudnn9*", "release l=NVIDIA CUDA", 600),)},
        "decides for libcudnn9-cuda-13",
    ),
    "a higher priority for another version, read later": (
        {"pins": (pin("zz", "nvidia-driver-cuda", "version 595.91.07-1", 1002),)},
        "apt would move nvidia-driver-cuda to what it names",
    ),
    "our priority for another version: the newer one wins": (
        {"pins": (pin("zz", "nvidia-driver-cuda", "version 595.91.07-1", 1001),)},
        "not below the locked versions' 1001",
    ),
    "the same said twice": (
        {"pins": (pin("a.pref", "nvidia-gds", "version 1*", 500),
                  pin("b.pref", "nvidia-gds nvidia-x", "version 1*", 900))},
        "b.pref: `Package: nvidia-gds`, `Pin: version 1*` (priority 900) does nothing",
    ),
    "a file that apt does not read for its name": (
        {"ignored_pins": (pin("nvidia.conf", "nvidia-*", "version 580*", 1001),
                          pin("nvidia.conf", "cuda-*", "version 13*", 1001))},
        "/etc/apt/preferences.d/nvidia.conf pins GPU packages or their prerequisites and apt "
        "does not read it",
    ),
    "a prerequisite without a candidate": (
        {"pins": (pin("a.pref", "*", "origin deb.debian.org", -10),),
         "candidates": {"dkms": Candidate(candidate="", origins=(), pin="")}},
        "apt has no candidate for dkms, and /etc/apt/preferences.d/a.pref forbids one",
    ),
    "pins that could not be read": (
        {"pins": None, "unknown": {"pins": "took too long"}},
        "pins could not be read (took too long)",
    ),
    "one file of pins that could not be read": (
        {"unknown": {"pins./etc/apt/preferences.d/x": "only root can read it"}},
        "/etc/apt/preferences.d/x could not be read",
    ),
    "a hold on the metapackage only": (
        {"more": {"nvidia-open": "580.178.04-1"}, "held": ("nvidia-open",)},
        "nvidia-open is on hold, which holds only the metapackage",
    ),
    "a hold on what must move": (
        {"more": {"nvidia-driver-cuda": "570.172.08-1"}, "held": ("nvidia-driver-cuda",)},
        "on hold, and not at the locked version: nvidia-driver-cuda",
    ),
    "a static CDI file beside the service that keeps another": (
        {"cdi": {"/etc/cdi/nvidia.yaml": "580.178.04", "/run/cdi/nvidia.yaml": "580.178.04"},
         "services": {"nvidia-cdi-refresh.path": Service(
             load="loaded", active="active", enabled="enabled")}},
        "/etc/cdi/nvidia.yaml lists the GPUs beside what nvidia-cdi-refresh keeps",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", RED_APT)
def test_a_hazard_of_apt_is_told_once(name: str) -> None:
    changes, words = RED_APT[name]
    found = told(converged(**changes))
    assert [words in one for one in found] == [True], found


GREEN_APT: dict[str, dict[str, Any]] = {
    "nothing": {},
    "our own pins": {"pins": (pin(PATH, "nvidia-driver-cuda", f"version {EXACT}", 1001),)},
    "the vendor's keyring package: the general form, and other packages of Ubuntu's": {
        "pins": (
            pin("cuda-repository-pin-600", "nsight-compute", "origin *ubuntu.com*", -1),
            pin("cuda-repository-pin-600", "*", "release l=NVIDIA CUDA", 600),
        )
    },
    "the distribution's own driver packages forbidden": {
        "pins": (pin("a.pref", "nvidia-*", "release o=Ubuntu", -1),)
    },
    "another address than the vendor's": {
        "pins": (pin("a.pref", "nvidia-*", "origin archive.ubuntu.com", -1),)
    },
    "the vendor's pinning package, below ours": {
        "pins": (pin("nvidia-driver-pin", "*nvidia*", "version 580*", 1000),)
    },
    "the very version that is locked": {
        "pins": (pin("a.pref", "nvidia-driver-cuda", f"version {EXACT}", 1001),)
    },
    "another version of it forbidden": {
        "pins": (pin("a.pref", "nvidia-driver-cuda", "version 595*", -1),)
    },
    "two versions of one package": {
        "pins": (
            pin("a.pref", "nvidia-gds", "version 1*", 500),
            pin("b.pref", "nvidia-gds", "version 2*", 900),
        )
    },
    "a broken regular expression": {"pins": (pin("a.pref", "/nvidia[/", "version *", -1),)},
    "a prerequisite that is installed needs no candidate": {
        "pins": (pin("a.pref", "*", "origin deb.debian.org", -10),),
        "candidates": {"dkms": Candidate(candidate="", origins=(), pin="")},
        "more": {"dkms": "3.0.10-8"},
    },
    "a prerequisite with a candidate": {
        "pins": (pin("a.pref", "*", "origin other.lan", -10),),
        "candidates": {"dkms": Candidate(candidate="3.0.10-8", origins=(), pin="500")},
    },
    "a hold on all of the driver": {
        "more": {"nvidia-open": "580.178.04-1"},
        "held": ("nvidia-open", "nvidia-driver-cuda", "nvidia-kernel-open-dkms"),
    },
    "a hold on what is as locked": {"held": ("nvidia-driver-cuda",)},
    "automatic upgrades: the operating-system layer writes a blacklist": {
        "more": {"nvidia-gds": "13.0.2-1"},
        "auto_upgrades": AutoUpgrades(enabled=True),
    },
    "a static CDI file alone": {"cdi": {"/etc/cdi/nvidia.yaml": "580.178.04"}},
    "another device's CDI file": {"cdi": {"/run/cdi/nvidia.yaml": "580.178.04"}},
}


@pytest.mark.parametrize("name", GREEN_APT)
def test_what_is_no_hazard_to_apt(name: str) -> None:
    assert told(converged(**GREEN_APT[name])) == []


@pytest.mark.parametrize(
    ("theirs", "mixed"),
    [
        ({"nvidia-utils-580-server": "580.159.03-0ubuntu0.24.04.1"}, True),
        ({"nvidia-fabricmanager-580": "580.159.03-0ubuntu0.24.04.1"}, True),
        ({"libnvidia-container1": "1.18.2-1"}, False),
    ],
)
def test_packages_of_two_origins(theirs: dict[str, str], mixed: bool) -> None:
    stack = debian(distribution="ubuntu2404")
    found = told(converged(stack, more=theirs), stack)
    assert [one.startswith("mixed origins: ") for one in found] == [True] * mixed, found
    versions = {name: Package(version=one, state="ii", held=False) for name, one in theirs.items()}
    assert told(facts("l40s", packages=versions), stack) == []  # the driver is yet to come


RED_DNF: dict[str, tuple[dict[str, Any], str]] = {
    "a stream that the driver layer does not set": (
        {"streams": {"nvidia-fabric": "595"}},
        "module stream nvidia-fabric:595 is enabled, and the locked driver is of no stream",
    ),
    "a lock on another version": (
        {"versionlocks": ("nvidia-driver-cuda-3:570.172.08-1.el9.*",)},
        "does not allow the locked version of nvidia-driver-cuda",
    ),
    "several locks are told at once": (
        {"versionlocks": ("kmod-nvidia-open-dkms-3:570.172.08-1.el9.*",
                          "nvidia-driver-cuda-3:570.172.08-1.el9.*")},
        "do not allow the locked version of kmod-nvidia-open-dkms, nvidia-driver-cuda",
    ),
    "a lock by pattern": (
        {"versionlocks": ("*nvidia*-3:570*-*.*",)},
        "does not allow the locked version of kmod-nvidia-open-dkms, nvidia-driver-cuda",
    ),
    "the locked version excluded": (
        {"versionlocks": ("!nvidia-driver-cuda-3:580.178.04-*.*",)},
        "does not allow the locked version",
    ),
    "excluded": (
        {"pins": (Pin(path="/etc/dnf/dnf.conf", package="nvidia* kernel*",
                      pin="exclude in [main]", priority=-1),)},
        "/etc/dnf/dnf.conf: exclude in [main] (nvidia* kernel*) hides nvidia-driver-cuda",
    ),
    "automatic upgrades of what is in no lock": (
        {"more": {"nvidia-gds": "13.0.2-1", "libnvidia-container1": "1.18.1-1"},
         "auto_upgrades": AutoUpgrades(enabled=True, blacklist=("libnvidia",))},
        "nvidia-gds is in no lock",
    ),
    "streams that could not be read": (
        {"streams": None, "unknown": {"streams": "no answer"}},
        "streams could not be read (no answer)",
    ),
    "locks in a place that is not looked at": (
        {"versionlocks": None, "unknown": {"versionlocks": "they are kept in /srv/locks"}},
        "versionlocks could not be read (they are kept in /srv/locks)",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", RED_DNF)
def test_a_hazard_of_dnf_is_told_once(name: str) -> None:
    changes, words = RED_DNF[name]
    found = told(converged(rhel(), **changes), rhel())
    assert [words in one for one in found] == [True], found


GREEN_DNF: dict[str, dict[str, Any]] = {
    "nothing": {},
    "automatic upgrades of a host that is all in the lock": {
        "auto_upgrades": AutoUpgrades(enabled=True)
    },
    "automatic upgrades with a blacklist": {
        "more": {"nvidia-gds": "13.0.2-1"},
        "auto_upgrades": AutoUpgrades(enabled=True, blacklist=("nvidia", "broken[")),
    },
    "no automatic upgrades": {"more": {"nvidia-gds": "13.0.2-1"}},
    "its own stream, and others'": {"streams": {"nvidia-driver": "580-open", "nodejs": "20"}},
    "another branch's stream: the driver layer sets its own": {
        "streams": {"nvidia-driver": "595-open"}
    },
    "a lock on the locked version": {
        "versionlocks": (
            "nvidia-driver-cuda-3:580.178.04-1.el9.*",
            "kmod-nvidia-open-dkms-580.178.04-1.el9.x86_64",
            "nvidia-driver-cuda-3:580.178.04-*.*",
        )
    },
    "another version excluded": {"versionlocks": ("!nvidia-driver-cuda-3:595*",)},
    "another package locked": {"versionlocks": ("kernel-0:5.14.0-427.el9.*",)},
    "another package excluded": {
        "pins": (Pin(path="/etc/dnf/dnf.conf", package="kernel*", pin="exclude", priority=-1),)
    },
}


@pytest.mark.parametrize("name", GREEN_DNF)
def test_what_is_no_hazard_to_dnf(name: str) -> None:
    assert told(converged(rhel(), **GREEN_DNF[name]), rhel()) == []


def test_a_host_whose_packages_are_not_ours_is_told_of_automatic_upgrades_only() -> None:
    spec = NodeSpec(privileged=False, prefix="/home/u/gpufleet")
    stack = factory.solve(spec, facts("l40s")).stack
    assert stack is not None
    found = warnings(
        Wanted(host="h1", spec=spec, stack=stack),
        facts(
            "l40s",
            packages={"libcuda1": Package(version="580.1-1", state="ii", held=False)},
            pins=(pin("a.pref", "nvidia-*", "version *", -1),),
            auto_upgrades=AutoUpgrades(enabled=True),
        ),
    )
    assert [one.split(":")[0] for one in found] == [
        "packages are upgraded automatically here, and libcuda1 is in no lock"
    ]
