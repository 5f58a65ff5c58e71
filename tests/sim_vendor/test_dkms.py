"""The stand-in for DKMS and the module sources, in directories of their own."""

from __future__ import annotations

import platform
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.sim.vendor import debian

from .conftest import KERNEL

ARCH = platform.machine()


class Dkms:
    """DKMS with its own trees below a directory."""

    def __init__(self, root: Path, program: Path) -> None:
        self.root, self.program = root, program
        self.tree, self.modules = root / "dkms", root / "modules"
        self.tree.mkdir()
        self.modules.mkdir()

    def run(self, action: str, *words: str) -> subprocess.CompletedProcess[str]:
        """Run one action."""
        where = ["--dkmstree", self.tree, "--sourcetree", self.root / "usr/src"]
        return subprocess.run(
            [self.program, action, *words, *where, "--installtree", self.modules],
            env={
                "SIM_ROOT": str(self.root),
                "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
                "LC_ALL": "C",
            },
            capture_output=True,
            text=True,
            check=False,
            timeout=30,
        )

    def fault(self, kind: str, content: str = "") -> None:
        """Set a fault of the simulated host."""
        file = self.root / "etc/sim/faults" / kind
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content)

    def kernel(self, release: str, headers: Path | None) -> None:
        """A kernel's directory, with a link to its headers."""
        (self.modules / release).mkdir(parents=True)
        if headers:
            (self.modules / release / "build").symlink_to(headers)


@pytest.fixture
def dkms(unpack, repository) -> Dkms:
    """The packaged DKMS with the sources of both flavours' 580 and of a kernel's headers."""
    extra = repository.extra
    program = unpack("dkms", version=debian.DKMS_VERSION, repo=extra) / "usr/sbin/dkms"
    root = unpack("nvidia-kernel-open-dkms")
    headers = unpack(f"linux-headers-{debian.package_suffix(KERNEL)}", version="1.0-1", repo=extra)
    made = Dkms(root, program)
    made.kernel(KERNEL, headers / f"usr/src/linux-headers-{KERNEL}")
    return made


def modinfo(file: Path, field: str) -> str:
    """A field of a module file by the real modinfo."""
    program = shutil.which("modinfo", path="/usr/sbin:/sbin:/usr/bin:/bin")
    if program is None:
        pytest.skip("missing modinfo (kmod)")
    done = subprocess.run([program, "-F", field, file], capture_output=True, text=True, check=True)
    return done.stdout.strip()


MODULE = "nvidia/580.178.04"


def test_a_module_goes_through_added_built_installed_and_away(dkms: Dkms) -> None:
    assert dkms.run("status").stdout == ""
    assert dkms.run("add", MODULE).returncode == 0
    assert dkms.run("status").stdout == f"{MODULE}: added\n"
    done = dkms.run("build", MODULE, "-k", KERNEL)
    assert done.returncode == 0, done.stderr
    assert dkms.run("status", "-m", "nvidia").stdout == f"{MODULE}, {KERNEL}, {ARCH}: built\n"
    log = dkms.tree / MODULE / KERNEL / ARCH / "log/make.log"
    assert log.read_text().startswith(f"DKMS make.log for nvidia-580.178.04 for kernel {KERNEL}")
    done = dkms.run("install", MODULE, "-k", KERNEL)
    assert "Installing to " in done.stdout
    installed = dkms.modules / KERNEL / "updates/dkms"
    assert sorted(file.name for file in installed.iterdir()) == [
        *("nvidia-modeset.ko", "nvidia-uvm.ko", "nvidia.ko")
    ]
    assert dkms.run("status").stdout == f"{MODULE}, {KERNEL}, {ARCH}: installed\n"
    done = dkms.run("remove", MODULE, "--all")
    assert done.returncode == 0, done.stderr
    assert list(installed.iterdir()) == []
    assert dkms.run("status").stdout == ""


def test_the_module_says_version_flavour_and_kernel(dkms: Dkms, unpack) -> None:
    assert dkms.run("install", MODULE, "-k", KERNEL).returncode == 0
    file = dkms.modules / KERNEL / "updates/dkms/nvidia.ko"
    assert modinfo(file, "version") == "580.178.04"
    assert modinfo(file, "license") == "Dual MIT/GPL"
    assert modinfo(file, "vermagic").split()[0] == KERNEL
    assert modinfo(file.with_name("nvidia-uvm.ko"), "name") == "nvidia_uvm"
    dkms.run("remove", MODULE, "--all")
    unpack("nvidia-kernel-dkms")  # the other flavour takes the same place
    assert dkms.run("install", MODULE, "-k", KERNEL).returncode == 0
    assert modinfo(file, "license") == "NVIDIA"


def test_a_compile_that_fails_leaves_its_log(dkms: Dkms) -> None:
    dkms.fault("dkms-fails")
    done = dkms.run("install", MODULE, "-k", KERNEL)
    assert done.returncode == 10
    assert f"Bad return status for module build on kernel: {KERNEL}" in done.stderr
    log = dkms.tree / MODULE / "build/make.log"
    assert f"Consult {log} for more information." in done.stderr
    assert "error: implicit declaration of function" in log.read_text()
    assert dkms.run("status").stdout == f"{MODULE}: added\n"
    (dkms.root / "etc/sim/faults/dkms-fails").unlink()
    assert dkms.run("install", MODULE, "-k", KERNEL).returncode == 0


def test_without_headers_nothing_is_built(dkms: Dkms) -> None:
    dkms.kernel("6.12.0-bare", None)
    dkms.run("add", MODULE)
    done = dkms.run("build", MODULE, "-k", "6.12.0-bare")
    assert done.returncode == 21
    assert "kernel headers for kernel 6.12.0-bare cannot be found" in done.stderr
    done = dkms.run("autoinstall", "-k", "6.12.0-bare")
    assert done.returncode == 0, "skipped, and only said so"
    assert "was skipped since the kernel headers" in done.stdout


def test_autoinstall_builds_everything_registered(dkms: Dkms, unpack) -> None:
    unpack("nvidia-kernel-open-dkms")
    dkms.run("add", MODULE)
    assert dkms.run("autoinstall", "-k", KERNEL).returncode == 0
    assert dkms.run("status", "-k", KERNEL).stdout == f"{MODULE}, {KERNEL}, {ARCH}: installed\n"
    dkms.run("remove", MODULE, "-k", KERNEL)
    dkms.run("add", MODULE)
    dkms.fault("dkms-fails")
    done = dkms.run("autoinstall", "-k", KERNEL)
    assert done.returncode == 11
    assert "One or more modules failed to install during autoinstall." in done.stderr


def test_wrong_use_is_refused(dkms: Dkms) -> None:
    assert dkms.run("add", "nvidia/1.0").returncode == 2, "no such source"
    assert dkms.run("remove", MODULE, "--all").returncode == 3, "not added"
    assert dkms.run("frobnicate").returncode == 1
    assert dkms.run("build").returncode == 1
    dkms.run("add", MODULE)
    assert dkms.run("add", MODULE).returncode == 3
