"""The pure readers of rpm hosts: packages, candidates, what dnf is told, the next kernel."""

from typing import Any

import pytest

from deploy.facts import Package
from deploy.interest import FOREIGN_DRIVERS, GPU_PACKAGES
from deploy.probing.foreign import foreign_owners
from deploy.probing.kernel_facts import read_kernel
from deploy.probing.probe import parse
from deploy.probing.probe_parts import READERS, tags
from deploy.probing.rpm_facts import (
    locked_by_others,
    locked_name,
    read_dnf,
    read_rpm_candidates,
    read_rpm_packages,
)
from tests.capture import NONCE, PLACE

RPMS = [
    "rpm\tnvidia-driver-cuda\tx86_64\t3:580.159.04-1.el9",
    "rpm\tlibnvidia-ml\tx86_64\t3:580.159.04-1.el9",
    "rpm\tlibnvidia-ml\ti686\t3:580.159.04-1.el9",
    "rpm\tnvidia-fabricmanager\tx86_64\t0:580.159.04-1",
    "rpm\tkernel-core\tx86_64\t5.14.0-503.11.1.el9_5",
    "rpm\tkernel-core\tx86_64\t5.14.0-570.12.1.el9_6",
]


def packages(*lines: str) -> dict[str, Any]:
    return read_rpm_packages(list(lines), True, {})


def test_packages() -> None:
    found = packages(*RPMS)["packages"]
    assert found["nvidia-driver-cuda"].version == "3:580.159.04-1.el9"
    assert found["nvidia-fabricmanager"].version == "580.159.04-1"  # no epoch 0
    assert found["libnvidia-ml:i686"].version == "3:580.159.04-1.el9"
    assert {one.state for one in found.values()} == {"ii"}
    # Kernels stand side by side; the newest by rpm's order is shown.
    assert found["kernel-core"].version == "5.14.0-570.12.1.el9_6"
    assert packages(*RPMS)["dpkg"].broken == ()


def test_two_versions_of_a_package_are_a_transaction_that_was_cut_off() -> None:
    found = packages(*RPMS, "rpm\tlibnvidia-ml\tx86_64\t3:580.178.04-1.el9")
    assert found["dpkg"].broken == ("libnvidia-ml",)
    torn = found["packages"]["libnvidia-ml"]
    assert (torn.version, torn.state) == ("3:580.178.04-1.el9", "iF")


@pytest.mark.parametrize(
    "line",
    ["rpm\tx\tx86_64\t1; rm -rf /-1", "rpm\tx\tx86_64", "rpm\tx\tx86_64\t(none)", "free text"],
)
def test_packages_that_make_no_sense(line: str) -> None:
    with pytest.raises(ValueError, match=r"version|unpack"):
        packages(line)


def test_candidates() -> None:
    lines = [
        "dnf\tdkms\tnoarch\t3.1.0-1.el9\tepel",
        "dnf\tdkms\tnoarch\t3.0.12-1.el9\tepel",
        "dnf\tkernel-devel\tx86_64\t5.14.0-503.11.1.el9_5\tappstream",
        "dnf\tkernel-devel\tx86_64\t5.14.0-570.12.1.el9_6\tappstream",
    ]
    found = read_rpm_candidates(lines, True, {})["candidates"]
    assert found["dkms"].candidate == "3.1.0-1.el9"
    assert found["dkms"].origins == ("epel",)
    assert found["kernel-devel"].candidate == "5.14.0-570.12.1.el9_6"
    assert found["kernel-devel-5.14.0-503.11.1.el9_5.x86_64"].candidate


DNF = """family dnf
file /etc/dnf/dnf.conf
c [main]
c gpgcheck=1
c exclude=nvidia* firefox
c   kernel*

file /etc/yum.repos.d/cuda-rhel9.repo
c [cuda-rhel9-x86_64]
c name=cuda
c baseurl=https://user:secret@vendor.example/cuda/rhel9/x86_64
c enabled=1

file /etc/yum.repos.d/rocky.repo
c [baseos]
c mirrorlist=https://mirrors.example/?repo=BaseOS
c [crb]
c mirrorlist=https://mirrors.example/?repo=CRB
c enabled=0

file /etc/yum.repos.d/epel.repo
c [epel]
c metalink=https://mirrors.example/metalink?repo=epel-9
c excludepkgs=dkms

file /etc/dnf/modules.d/nvidia-driver.module
c [nvidia-driver]
c name=nvidia-driver
c stream=580-open
c profiles=
c state=enabled

file /etc/dnf/modules.d/nodejs.module
c [nodejs]
c name=nodejs
c stream=18
c state=disabled

file /etc/dnf/plugins/versionlock.list
c kernel-core-0:5.14.0-503.11.1.el9_5.*
c !nginx-1:1.20-1.*
c # gpufleet begin: ours
c libnccl-0:2.29.7-1+cuda13.0.*
c # gpufleet end
c libnvidia-ml-3:580.*

file /etc/dnf/automatic.conf
c [commands]
c apply_updates = yes

unreadable /etc/yum.repos.d/private.repo
locklist /etc/dnf/plugins/versionlock.list
locking 1
holder 4711 dnf"""


def configuration(text: str = DNF, unknown: dict[str, str] | None = None) -> dict[str, Any]:
    return read_dnf(text.splitlines(), True, {} if unknown is None else unknown)


def test_what_dnf_is_told() -> None:
    unknown: dict[str, str] = {}
    found = configuration(unknown=unknown)
    assert found["packaging"] == "dnf"
    assert found["streams"] == {"nvidia-driver": "580-open"}
    assert [source.line for source in found["sources"]] == [
        "[cuda-rhel9-x86_64] https://vendor.example/cuda/rhel9/x86_64",
        "[epel] https://mirrors.example/metalink?repo=epel-9",
    ]
    assert [(pin.package, pin.priority) for pin in found["pins"]] == [
        ("nvidia* kernel*", -1),
        ("dkms", -1),
    ]
    assert found["own_versionlocks"] == ("libnccl-0:2.29.7-1+cuda13.0.*",)
    assert found["versionlocks"] == (
        "kernel-core-0:5.14.0-503.11.1.el9_5.*",
        "!nginx-1:1.20-1.*",
        "libnvidia-ml-3:580.*",
    )
    assert found["auto_upgrades"].enabled
    assert found["dnf_lock_holder"] == "dnf (pid 4711)"
    assert unknown == {"sources./etc/yum.repos.d/private.repo": "only root can read it"}


def test_locks_that_are_kept_elsewhere_or_switched_off_are_unknown() -> None:
    unknown: dict[str, str] = {}
    elsewhere = DNF.replace("locklist /etc/dnf", "locklist /srv/dnf")
    found = configuration(elsewhere, unknown)
    assert found["versionlocks"] is None
    assert "/srv/dnf/plugins" in unknown["own_versionlocks"]
    found = configuration(DNF.replace("locking 1", "locking 0"), unknown)
    assert (found["versionlocks"], found["own_versionlocks"]) == ((), None)
    assert "no lock has an effect" in unknown["own_versionlocks"]


def test_a_block_of_ours_that_lost_its_end_is_ours_to_mend() -> None:
    found = configuration(DNF.replace("c # gpufleet end\n", ""))
    assert len(found["own_versionlocks"]) == 2


def test_the_locks_of_dnf5() -> None:
    text = (
        'file /etc/dnf/versionlock.toml\nc [[packages]]\nc name = "libnccl"\nc value = "2.29.7-1"'
    )
    assert configuration(f"family dnf\n{text}")["versionlocks"] == ("libnccl", "libnccl-2.29.7-1")


@pytest.mark.parametrize(
    ("lock", "name"),
    [
        ("nvidia-driver-cuda-3:580.178.04-1.el9.*", "nvidia-driver-cuda"),
        ("libnccl-2.29.7-1.*", "libnccl"),
        ("libnvidia-ml-3:580.*", "libnvidia-ml"),
        ("libnvidia-ml-580.*", "libnvidia-ml"),
        ("nvidia-*", "nvidia-*"),
        ("!libnccl-0:2.30-1.*", ""),
    ],
)
def test_the_package_of_a_lock(lock: str, name: str) -> None:
    assert locked_name(lock) == name


def test_what_somebody_else_locked_counts_as_held() -> None:
    one = Package(version="1-1", state="ii", held=False)
    held = locked_by_others({"libnccl": one, "libcudnn9": one}, ["libnccl-0:1-1.*", "!libcudnn9"])
    assert {name for name, package in held.items() if package.held} == {"libnccl"}


OLD, NEW = "5.14.0-503.11.1.el9_5.x86_64", "5.14.0-570.12.1.el9_6.x86_64"


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ([], NEW),
        (["grub-default saved", f"grub-saved_entry 0d1e-{OLD}"], OLD),
        (["grub-default saved", "grub-saved_entry 0"], NEW),
        (["grub-default saved", "grub-saved_entry 1"], OLD),
        (["grub-next_entry " + OLD], OLD),
    ],
)
def test_the_kernel_of_the_next_boot_by_the_boot_loaders_entries(
    lines: list[str], expected: str
) -> None:
    there = [f"modules {OLD}", f"modules {NEW}", f"bls {OLD}", f"bls {NEW}", "bls 0-rescue-0d1e"]
    assert read_kernel(tags([f"running {OLD}", *there, *lines])).next == expected


@pytest.mark.parametrize(
    ("name", "foreign"),
    [
        ("akmod-nvidia", True),
        ("xorg-x11-drv-nvidia-cuda", True),
        ("kmod-nvidia", True),
        ("nvidia-x11-drv", True),
        ("kmod-nvidia-580.95.05-5.14.0-570.el9.x86_64", True),
        ("kmod-nvidia-open-dkms", False),
        ("kmod-nvidia-latest-dkms", False),
        ("nvidia-driver-cuda", False),
    ],
)
def test_drivers_of_other_repositories_are_somebody_elses(name: str, foreign: bool) -> None:
    values = {
        "foreign_paths": [],
        "pci": (),
        "packages": {name: Package(version="3:580.1-1", state="ii", held=False)},
        "modules": read_modules_of_nothing(),
    }
    owners = foreign_owners(values)
    assert owners is not None
    assert [one.owner for one in owners] == (["other-packages"] if foreign else [])
    assert GPU_PACKAGES.split("|")[0] in name
    assert FOREIGN_DRIVERS.startswith("^")


def read_modules_of_nothing() -> object:
    return READERS["modules"]([], True, {})["modules"]


def el_answer() -> str:
    """An answer as an EL host gives it: the captured frame with EL's lines in the parts that
    depend on the package system."""
    text = (PLACE / "bare-hgx-h100.txt").read_text()
    for name, lines in (
        ("packages", RPMS),
        ("candidates", ["dnf\tdkms\tnoarch\t3.1.0-1.el9\tepel"]),
        ("manager", DNF.splitlines()),
    ):
        start = text.index(f"{NONCE} part {name} ")
        end = text.index("\n", text.index(f"{NONCE} done {name} ")) + 1
        body = "".join(f"|{line}\n" for line in lines)
        frame = f"{NONCE} part {name} 0\n{body}{NONCE} done {name} {len(lines)}\n"
        text = text[:start] + frame + text[end:]
    return text.replace("|os ID=debian", "|os ID=rocky").replace(
        '|os VERSION_ID="12"', '|os VERSION_ID="9.5"'
    )


def test_a_whole_answer_of_an_el_host() -> None:
    found = parse("h1", NONCE, el_answer())
    assert (found.packaging, found.streams) == ("dnf", {"nvidia-driver": "580-open"})
    assert found.packages is not None
    assert found.packages["libnvidia-ml"].held
    assert not found.packages["nvidia-driver-cuda"].held
    assert found.dpkg is not None
    assert found.dpkg.lock_holder == "dnf (pid 4711)"
    assert found.auto_upgrades is not None
    assert not found.auto_upgrades.enabled  # dnf-automatic is not installed


def test_a_hostile_stream_or_lock_stays_text() -> None:
    evil = el_answer().replace("stream=580-open", "stream=$(touch /tmp/owned)\x1b[31m")
    found = parse("h1", NONCE, evil)
    assert found.streams == {"nvidia-driver": "$(touch /tmp/owned)\\x1b[31m"}


def test_a_damaged_configuration_is_unknown_and_nothing_else_is() -> None:
    evil = el_answer().replace("|holder 4711 dnf", "|holder x dnf")
    found = parse("h1", NONCE, evil)
    assert found.streams is None
    assert "makes no sense" in found.unknown["streams"]
    assert found.packages is not None
