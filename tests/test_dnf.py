"""dnf's transactions: the guard that judges inside dnf, and what the command says.

The guard is run here against a stand-in for dnf's own modules; the simulated fleet runs it in dnf.
"""

import subprocess
import sys
import types
from pathlib import Path
from typing import Any, ClassVar

import pytest

from deploy import dnf
from deploy.interest import GPU_PACKAGES
from deploy.packages import difference
from deploy.stack import Driver, PackagePin, Packages, Stack
from deploy.transact import transaction


def pins(**versions: str) -> Packages:
    return {
        name.replace("_", "-"): PackagePin(version=version, size=1)
        for name, version in versions.items()
    }


DRIVER = pins(nvidia_driver_cuda="3:580.178.04-1.el9", kmod_nvidia_open_dkms="3:580.178.04-1.el9")


def stack(packaging: Any = "dnf") -> Stack:
    driver = Driver(branch="580", version="580.178.04", flavour="open", pinning={}, packages=DRIVER)
    return Stack(
        distribution="rhel9",
        packaging=packaging,
        arch="x86_64",
        repository=None,
        driver=driver,
        fabric=None,
        cuda=None,
        cudnn=None,
        nccl=None,
        environment=None,
    )


class One:
    """A package as dnf shows it."""

    def __init__(self, name: str, evr: str) -> None:
        self.name, self.evr = name, evr
        self.version = evr.rpartition(":")[2].partition("-")[0]


class Base:
    """What the guard sees of dnf."""

    removed: ClassVar[list[str]] = []

    def __init__(self, coming: list[One], going: list[One]) -> None:
        self.transaction = types.SimpleNamespace(install_set=coming, remove_set=going)
        self.sack = types.SimpleNamespace(query=lambda: self)
        self.name = ""

    def installed(self) -> "Base":
        return self

    def filter(self, *, name: str) -> "Base":
        self.name = name
        return self

    def run(self) -> list[str]:
        return [self.name] if self.name == "there" else []

    def remove(self, name: str) -> None:
        self.removed.append(name)


class Refused(Exception):  # noqa: N818 - stands for dnf's own
    pass


@pytest.fixture
def guard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Judges a transaction; "" when it may go on, else what it says."""
    stub: Any = types.ModuleType("dnf")
    stub.Plugin = type("Plugin", (), {"__init__": lambda self, base, cli: None})
    stub.exceptions = types.SimpleNamespace(Error=Refused)
    monkeypatch.setitem(sys.modules, "dnf", stub)
    command = dnf.transaction(stack(), DRIVER)
    space: dict[str, Any] = {}
    exec(compile(command.stdin, "gpufleet.py", "exec"), space)
    refused = tmp_path / "refused"

    def judge(coming: list[One], going: list[One] = [], **values: str) -> str:  # noqa: B006
        settings = {
            "LEAVE": "",
            "WANTED": " ".join(f"{name}={pin.version}" for name, pin in DRIVER.items()),
            "MAY_GO": "",
            "MAY_BE": "580.178.04",
            "ALSO": "",
            "GPU": GPU_PACKAGES,
            "THEIRS": r"^there$",
            "REFUSED": str(refused),
        }
        for name, value in (settings | values).items():
            monkeypatch.setenv(name, value)
        plugin = space["Guard"](Base(coming, going), None)
        plugin.sack()
        try:
            plugin.resolved()
        except Refused:
            return refused.read_text()
        assert not refused.exists()
        return ""

    return judge


OTHER = One("kmod-nvidia-latest-dkms", "3:580.178.04-1.el9")
LOCKED = One("nvidia-driver-cuda", "3:580.178.04-1.el9")


@pytest.mark.parametrize(
    ("coming", "going", "values"),
    [
        ([LOCKED], [One("nvidia-driver-cuda", "3:580.159.04-1.el9")], {}),
        ([LOCKED, One("opencl-filesystem", "1.0-1")], [], {}),
        (
            [LOCKED],
            [One("kmod-nvidia-latest-dkms", "3:1-1")],
            {"MAY_GO": "kmod-nvidia-latest-dkms"},
        ),
        ([One("nvidia-settings", "3:580.178.04-1")], [], {"MAY_GO": "nvidia-settings"}),
        ([One("nvidia-extra", "0:9-1")], [], {"ALSO": "nvidia-extra"}),
        ([One("nvidia-driver-cuda", "0:1-1")], [], {"WANTED": "nvidia-driver-cuda=1-1"}),
    ],
)
def test_what_the_plan_says_may_be_done(
    guard: Any, coming: list[One], going: list[One], values: dict[str, str]
) -> None:
    assert guard(coming, going, **values) == ""


@pytest.mark.parametrize(
    ("coming", "going", "said"),
    [
        ([One("there", "2-1")], [], "it would change there, which belongs to the RDMA stack\n"),
        ([], [One("slurm", "1-1")], "it would remove slurm\n"),
        ([One("nvidia-driver-cuda", "3:595.91.07-1.el9")], [], "nvidia-driver-cuda at 3:595.91.07"),
        (
            [One("libcudnn9-cuda-13", "9.20-1")],
            [],
            "would put libcudnn9-cuda-13 at 9.20-1",
        ),
    ],
)
def test_anything_else_is_refused(
    guard: Any, coming: list[One], going: list[One], said: str
) -> None:
    assert said in guard(coming, going)


def test_what_shall_leave_leaves_when_it_is_there(guard: Any) -> None:
    Base.removed.clear()
    guard([LOCKED], [], LEAVE="there gone", MAY_GO="there gone")
    assert Base.removed == ["there"]


def test_the_arguments() -> None:
    shell = dnf.transaction(stack(), DRIVER, may_go=["kmod-nvidia-latest-dkms"]).shell
    line = next(line for line in shell.splitlines() if line.startswith("set -- "))
    assert line == (
        "set -- install --allowerasing kmod-nvidia-open-dkms-3:580.178.04-1.el9 "
        "nvidia-driver-cuda-3:580.178.04-1.el9"
    )
    assert "--allowerasing" not in dnf.transaction(stack(), DRIVER).shell.split("set -- ")[1]


def test_before_comes_between_download_and_change() -> None:
    shell = dnf.transaction(stack(), DRIVER, before="echo stop\n").shell
    assert shell.index("--downloadonly") < shell.index("echo stop") < shell.index("dnf4 -C")


def test_hostile_values_stay_values(tmp_path: Path) -> None:
    evil = pins(**{"x;touch${IFS}owned": "1-1"})
    for command in (dnf.transaction(stack(), evil), dnf.stream("a;touch owned:b")):
        text = command.shell.partition("work=$(mktemp")[0]
        done = subprocess.run(["sh", "-c", text], cwd=tmp_path, capture_output=True, text=True)
        assert (done.returncode, list(tmp_path.iterdir())) == (0, [])


@pytest.mark.parametrize("shell", ["dash", "bash"])
def test_every_text_is_shell(shell: str) -> None:
    texts = [
        dnf.transaction(stack(), DRIVER, remove=["a"], also=["b"]).shell,
        dnf.stream("nvidia-driver:580-open").shell,
        dnf.update("gpufleet-vendor"),
    ]
    for text in texts:
        done = subprocess.run([shell, "-n"], input=text, text=True, capture_output=True)
        assert done.stderr == ""


def test_one_place_knows_the_package_system() -> None:
    lacks = difference(DRIVER, {})
    assert "dnf4" in transaction(stack(), DRIVER, lacks).shell
    assert "apt-get" in transaction(stack("apt"), DRIVER, lacks).shell
    with pytest.raises(ValueError, match="zypper"):
        transaction(stack("zypper"), DRIVER, lacks)
