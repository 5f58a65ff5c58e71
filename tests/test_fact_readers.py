"""The pure readers behind the probe: kernels, modprobe rules, apt, owners."""

import pytest

from deploy.facts import Modules, Package, PciDevice
from deploy.probing.apt_facts import read_apt, read_candidates, read_packages
from deploy.probing.foreign import foreign_owners
from deploy.probing.kernel_facts import read_kernel, read_modules, release_order
from deploy.probing.probe_parts import tags
from deploy.probing.use_facts import read_slurm, read_users

OLD, NEW = "6.1.0-9-amd64", "6.1.0-18-amd64"
GRUB = [f"grub-linux {NEW}", f"grub-linux {NEW}", f"grub-linux {NEW}", f"grub-linux {OLD}"]


def next_kernel(*lines: str) -> str:
    return read_kernel(tags([f"running {OLD}", *lines])).next


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ([], OLD),
        ([f"modules {OLD}", f"modules {NEW}"], NEW),
        ([f"modules {NEW}", f"modules {OLD}", f"image {OLD}"], OLD),
        ([f"modules {NEW}", f"modules {OLD}", f"image {OLD}", f"image {NEW}"], NEW),
        ([f"modules {OLD}", f"image {NEW}"], OLD),
        ([f"modules {OLD}", f"modules {NEW}", "grub-default 0", *GRUB], NEW),
        ([f"modules {OLD}", f"modules {NEW}", 'grub-default "1>2"', *GRUB], OLD),
        (
            [
                f"modules {OLD}",
                f"modules {NEW}",
                "grub-default saved",
                f"grub-saved_entry gnulinux-advanced-1>gnulinux-{OLD}-advanced-1",
                *GRUB,
            ],
            OLD,
        ),
        ([f"modules {OLD}", f"modules {NEW}", f"grub-saved_entry x-{OLD}-y", *GRUB], NEW),
        ([f"modules {OLD}", f"modules {NEW}", "grub-default 0", f"grub-next_entry x-{OLD}-y"], OLD),
        ([f"modules {OLD}", f"modules {OLD}+next"], f"{OLD}+next"),
    ],
    ids=range(11),
)
def test_the_kernel_of_the_next_boot(lines: list[str], expected: str) -> None:
    assert next_kernel(*lines) == expected


def test_kernels_are_ordered_by_number_not_by_letter() -> None:
    releases = ["6.1.0-18-amd64", "6.1.0-9-amd64", "6.12.1", "6.9.3", "6.12-rc3", "6.12"]
    assert sorted(releases, key=release_order) == [
        "6.1.0-9-amd64",
        "6.1.0-18-amd64",
        "6.9.3",
        "6.12-rc3",
        "6.12",
        "6.12.1",
    ]


def modules(*lines: str) -> Modules:
    found = read_modules(list(lines), True, {})["modules"]
    assert isinstance(found, Modules)
    return found


@pytest.mark.parametrize(
    ("lines", "kept_out"),
    [
        (["config /etc/modprobe.d/a.conf"], False),
        (["config /etc/modprobe.d/a.conf", "rule blacklist nouveau"], True),
        (["config /usr/lib/modprobe.d/a.conf", "rule blacklist nouveau"], True),
        (
            # An empty file of the same name in /etc hides the one of the package.
            [
                "config /etc/modprobe.d/a.conf",
                "config /usr/lib/modprobe.d/a.conf",
                "rule blacklist nouveau",
            ],
            False,
        ),
        (["config /etc/modprobe.d/a.conf", "rule install nouveau /bin/false"], True),
        (["config /etc/modprobe.d/a.conf", "rule install nouveau /sbin/modprobe x"], False),
        (["config /etc/modprobe.d/a.conf", "rule alias nouveau off"], True),
        (["cmdline quiet modprobe.blacklist=nouveau,x"], True),
        (["cmdline module_blacklist=nouveau"], True),
        (["cmdline modprobe.blacklist=nouveaux"], False),
    ],
    ids=range(10),
)
def test_what_keeps_nouveau_out(lines: list[str], kept_out: bool) -> None:
    assert modules(*lines).nouveau_blacklisted is kept_out


def test_loaded_and_installed_modules() -> None:
    found = modules(
        "loaded 580.178.04",
        "refcount 3",
        "nvrm NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.178.04  Release Build",
        f"installed {OLD} version 580.178.04",
        f"installed {OLD} license Dual MIT/GPL",
        f"installed {NEW} version 570.1",
        f"installed {NEW} license NVIDIA",
    )
    assert (found.loaded_version, found.loaded_flavour, found.refcount) == ("580.178.04", "open", 3)
    assert [(m.version, m.flavour) for m in found.installed] == [
        ("570.1", "closed"),
        ("580.178.04", "open"),
    ]


def test_a_module_without_a_version_is_not_taken_for_none() -> None:
    found = modules(
        "loaded unnamed", "nvrm NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.5  x"
    )
    assert (found.loaded_version, found.loaded_flavour) == ("535.5", "closed")
    assert modules("loaded unnamed").loaded_version == "unknown"


def test_mig_is_said_by_slot() -> None:
    lines = ["minor 0000:1a:00.0 0", "minor 0000:2a:00.0 1", "mig 1", "mig 1", "mig 7"]
    assert read_modules(lines, True, {})["mig"] == ("0000:2a:00.0", "GPU 7")


def test_packages() -> None:
    values = read_packages(
        [
            "package\tii \tdpkg\tamd64\t1.21",
            "package\thi \tlibnvidia-ml1\tamd64\t580-1",
            "package\tii \tlibnvidia-ml1\ti386\t580-1",
            "package\tiF \tnvidia-kernel-dkms\tall\t580-1",
            "broken\tnvidia-kernel-dkms",
            "journal\t0001",
        ],
        True,
        {},
    )
    packages = values["packages"]
    assert packages["libnvidia-ml1"].held
    assert packages["libnvidia-ml1:i386"].state == "ii"
    assert packages["nvidia-kernel-dkms"].state == "iF"
    assert values["dpkg"].broken == ("nvidia-kernel-dkms",)
    assert values["dpkg"].interrupted


POLICY = """libnccl2:
  Installed: 2.29.7-1+cuda13.0
  Candidate: 2.30.7-1+cuda13.0
  Package pin: 2.30.7-1+cuda13.0
  Version table:
     2.30.7-1+cuda13.0 1000
        600 https://user:secret@vendor.example/cuda  Packages
 *** 2.29.7-1+cuda13.0 600
        500 http://old.example/cuda  Packages
        100 /var/lib/dpkg/status
     2.1-1 -1
         -1 http://third.example/x  Packages
none:
  Installed: (none)
  Candidate: (none)
  Version table:
     1.0 -1
         -1 http://third.example/x  Packages"""


def test_candidates() -> None:
    lines = [f"policy {line}" for line in POLICY.splitlines()]
    found = read_candidates(lines, True, {})["candidates"]
    assert found["libnccl2"].candidate == "2.30.7-1+cuda13.0"
    assert found["libnccl2"].origins == ("https://vendor.example/cuda", "http://old.example/cuda")
    assert found["libnccl2"].pin == "1000"
    assert (found["none"].candidate, found["none"].origins) == ("", ())


APT = """preferences /etc/apt/preferences.d/nvidia-driver-pin
p Explanation: written by the vendor
p Package: nvidia-*
p Pin: version 580.*
p Pin-Priority: 1000
p
p Package: firefox
p Pin: release a=x
p Pin-Priority: 900
preferences /etc/apt/preferences.d/old.bak
p Package: *
p Pin: release a=x
p Pin-Priority: -1
preferences /etc/apt/preferences.d/cuda.conf
p Package: cuda-*
p Pin: version 13.0*
p Pin-Priority: 1001
unreadable /etc/apt/sources.list.d/private.list
sources /etc/apt/sources.list.d/cuda.list
s deb [signed-by=/x] https://u:p@vendor.example/cuda /
sources /etc/apt/sources.list.d/debian.sources
s Types: deb
s URIs: http://mirror.example/debian
s Suites: bookworm
s Components: main contrib
s
s Enabled: no
s Types: deb
s URIs: http://mirror.example/nvidia
s Suites: x
config APT::Periodic::Unattended-Upgrade "1";
config Unattended-Upgrade::Package-Blacklist:: "nvidia";"""


def test_pins_sources_and_upgrades() -> None:
    unknown: dict[str, str] = {}
    found = read_apt(APT.splitlines(), False, unknown)
    assert [(pin.package, pin.priority) for pin in found["pins"]] == [("nvidia-*", 1000)]
    assert [pin.path for pin in found["ignored_pins"]] == ["/etc/apt/preferences.d/cuda.conf"]
    assert [source.line for source in found["sources"]] == [
        "deb [signed-by=/x] https://vendor.example/cuda /",
        "deb http://mirror.example/debian bookworm main contrib",
    ]
    assert unknown == {"sources./etc/apt/sources.list.d/private.list": "only root can read it"}
    assert found["auto_upgrades"].enabled
    assert found["auto_upgrades"].blacklist == ("nvidia",)


HOLDERS = [
    "devices",
    "self",
    "gpu\t10\t0\troot\tnvidia-persiste\t/usr/bin/nvidia-persistenced\tnvidia-persistenced.service",
    "gpu\t11\t117\tnvidia-persistenced\tpython3\t/usr/bin/python3.11\tnvidia-persistenced.service",
    "gpu\t12\t1001\tbob\tpython\t/opt/env/bin/python\tsession-3.scope",
]


def test_the_drivers_own_daemons_are_no_users() -> None:
    assert [user.pid for user in read_users(HOLDERS, True, {})["gpu_users"]] == [12]


@pytest.mark.parametrize(
    "line",
    [
        "gpu\t13\t1001\tbob\tnvidia-persiste\t/home/bob/nvidia-persistenced\tsession.scope",
        "gpu\t13\t1001\tbob\tpython\t/usr/bin/python3\tnvidia-persistenced.service",
        "gpu\t13\t1001\tbob\tx\t/usr/binx/nvidia-persistenced\t",
        "gpu\t13\t0\troot\tpython\t\t",
    ],
)
def test_nobody_else_can_pass_for_one(line: str) -> None:
    assert [user.pid for user in read_users(["self", line], True, {})["gpu_users"]] == [13]


def test_a_root_that_may_not_look_does_not_see_nobody() -> None:
    unknown: dict[str, str] = {}
    values = read_users([*HOLDERS, "blind"], True, unknown)
    assert "gpu_users" not in values
    assert unknown["gpu_users"] == "this root may not see which processes hold the GPU devices"


def test_a_scan_that_proves_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="did not find its own"):
        read_users([], True, {})


def test_slurm_jobs() -> None:
    jobs = read_slurm(["job\t4711\talice\tRUNNING", "job\t12_3\tbob\tCOMPLETING"], True, {})
    assert [job.job for job in jobs["slurm_jobs"]] == ["4711", "12_3"]


GPU = PciDevice(
    slot="0000:1a:00.0",
    device="2330",
    pci_class="030200",
    subsystem="10de:16c1",
    revision="a1",
    driver="nvidia",
)
LOADED = modules("loaded 570.1", f"installed {OLD} version 570.1")
DRIVER = {"libnvidia-ml1": Package(version="570.1-1", state="ii", held=False)}


@pytest.mark.parametrize(
    ("values", "owners"),
    [
        ({}, []),
        ({"modules": LOADED, "packages": DRIVER}, []),
        ({"modules": LOADED}, ["runfile"]),
        ({"modules": LOADED, "foreign_paths": ["/run/nvidia/driver/usr"]}, ["driver-container"]),
        ({"foreign_paths": ["/run/nvidia/validations/host-driver-ready"]}, []),
        ({"foreign_paths": ["/run/nvidia/validations/.driver-ctr-ready"]}, ["driver-container"]),
        ({"foreign_paths": ["/usr/bin/nvidia-uninstall"], "packages": DRIVER}, ["runfile"]),
        ({"foreign_paths": ["/var/log/nvidia-installer.log"]}, []),
        ({"foreign_paths": ["/etc/dgx-release"]}, ["dgx-os"]),
        ({"foreign_paths": ["/etc/nvidia/gridd.conf"]}, ["vgpu"]),
        ({"pci": (GPU.model_copy(update={"driver": "vfio-pci"}),)}, ["vfio"]),
        ({"modules": None}, None),
        ({"modules": LOADED, "packages": None}, None),
    ],
    ids=range(13),
)
def test_who_else_manages_a_host(values: dict[str, object], owners: list[str] | None) -> None:
    base: dict[str, object] = {
        "foreign_paths": [],
        "pci": (GPU,),
        "modules": modules(),
        "packages": {},
    }
    found = foreign_owners({**base, **values})
    assert (found if found is None else [foreign.owner for foreign in found]) == owners
