"""`gpufleet remove` takes away what is ours, all of it and nothing else."""

from pathlib import Path
from typing import Any

import pytest
from pyinfra_cli.util import PYTHON_CODES

import deploy.commands.remove as command
from deploy.cli import main
from deploy.facts import Environment
from deploy.fleet import hostlock
from deploy.fleet.hostlock import Owner, host_lock
from deploy.fleet.spec import NodeSpec
from deploy.removal import RemovalFailed, look, ours, remove
from tests import staged
from tests.localhost import LocalConnection, LocalHost, Result

SPEC = NodeSpec()
OURS = (
    "etc/apt/apt.conf.d/52gpufleet-unattended-upgrades",
    "etc/apt/sources.list.d/gpufleet-vendor.sources",
    "etc/gpufleet/expected.json",
    "etc/modprobe.d/gpufleet-nouveau.conf",
    "etc/profile.d/gpufleet-cuda.sh",
    "etc/systemd/system.conf.d/gpufleet-cuda.conf",
    "opt/gpufleet/envs/abc/bin/python",
    "opt/gpufleet/tools/uv-1/bin/uv",
    "usr/share/keyrings/gpufleet-vendor.asc",
    "var/lib/gpufleet/journal.jsonl",
)
THEIRS = ("etc/sudoers.d/gpufleet", "etc/apt/sources.list.d/debian.sources", "etc/profile.d/x.sh")


class Moved(LocalConnection):
    """Paths are those of the host on both sides of the connection."""

    def run(self, command: str, *, stdin: str = "", **more: Any) -> Result:
        result = super().run(command, stdin=self.on.moved(stdin), **more)
        clean = result.out.replace(str(self.on.root), "")
        return Result(result.rc, clean, result.err, result.seconds, result.trouble)


@pytest.fixture
def host(tmp_path: Path) -> LocalHost:
    host = LocalHost(tmp_path / "host")
    for path in (*OURS, *THEIRS):
        (host.root / path).parent.mkdir(parents=True, exist_ok=True)
        (host.root / path).write_text("x\n")
    (host.root / "opt/gpufleet/env").symlink_to("envs/abc")
    for name in ("update-initramfs", "systemctl"):
        stand_in = host.root / "bin" / name
        stand_in.write_text(f'#!/bin/sh\necho "{name} $*" >>{host.root}/called\n')
        stand_in.chmod(0o755)
    return host


def kept(host: LocalHost) -> list[str]:
    return [path for path in OURS if (host.root / path).exists()]


def test_everything_of_ours_goes_and_nothing_else(host: LocalHost) -> None:
    connection = Moved(host)
    paths = look(connection, SPEC)
    warning = remove(connection, paths, SPEC)
    assert kept(host) == []
    assert not (host.root / "opt/gpufleet").exists(), "an empty prefix goes too"
    assert [path for path in THEIRS if not (host.root / path).exists()] == []
    assert look(connection, SPEC) == []
    called = (host.root / "called").read_text().splitlines()
    assert called == ["systemctl daemon-reload", "update-initramfs -u -k all"]
    assert "nouveau" in warning, "nothing else keeps it off on this host"


def test_of_dnfs_locks_only_ours_go(host: LocalHost) -> None:
    for path in ("etc/yum.repos.d/gpufleet.repo", "etc/pki/rpm-gpg/RPM-GPG-KEY-gpufleet-vendor"):
        (host.root / path).parent.mkdir(parents=True)
        (host.root / path).write_text("x\n")
    locks = host.root / "etc/dnf/plugins/versionlock.list"
    locks.parent.mkdir(parents=True)
    locks.write_text("a-0:1-1.*\n# gpufleet begin: x\nb-0:1-1.*\n# gpufleet end\nc-0:1-1.*\n")
    connection = Moved(host)
    remove(connection, look(connection, SPEC), SPEC)
    assert locks.read_text() == "a-0:1-1.*\nc-0:1-1.*\n"
    assert list((host.root / "etc/yum.repos.d").iterdir()) == []
    assert list((host.root / "etc/pki/rpm-gpg").iterdir()) == []
    assert look(connection, SPEC) == []
    assert [one.name for one in locks.parent.iterdir()] == ["versionlock.list"]


def test_a_prefix_with_other_things_in_it_stays(host: LocalHost) -> None:
    other = host.root / "opt/gpufleet/data.txt"
    other.write_text("mine\n")
    connection = Moved(host)
    remove(connection, look(connection, SPEC), SPEC)
    assert other.read_text() == "mine\n"
    assert look(connection, SPEC) == []


def test_no_warning_while_something_else_keeps_nouveau_off(host: LocalHost) -> None:
    (host.root / "etc/modprobe.d/nvidia.conf").write_text("blacklist nouveau\n")
    connection = Moved(host)
    assert remove(connection, look(connection, SPEC), SPEC) == ""


@pytest.mark.parametrize(
    "path",
    [
        "/etc/passwd",
        "/etc/sudoers.d/gpufleet",
        "/opt",
        "/opt/gpufleet/data",
        "/etc/apt/gpufleet/../../passwd",
        "/etc/apt/gpufleet; rm -rf x",
        "/etc/apt/gpufleet\n/etc",
        "etc/apt/gpufleet",
        "",
    ],
)
def test_what_is_not_ours_is_never_removed(path: str, host: LocalHost) -> None:
    assert not ours(path, SPEC)
    with pytest.raises(AssertionError):
        remove(Moved(host), [path], SPEC)


def test_a_host_that_names_other_paths_is_refused(host: LocalHost) -> None:
    class Lying(Moved):
        def run(self, command: str, **more: Any) -> Result:
            return Result(0, "/etc/apt/gpufleet.conf\n/home/alice\n", "", 0.0, "")

    with pytest.raises(RemovalFailed, match="/home/alice"):
        look(Lying(host), SPEC)


@pytest.fixture
def fleet(host: LocalHost, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LocalHost:
    """The command, run in an empty folder over a fleet of that one host."""
    monkeypatch.chdir(tmp_path)
    PYTHON_CODES.clear()  # pyinfra keeps inventories by name; each test has its own lab.py
    Path("lab.py").write_text("gpus = ['local1']\n")
    monkeypatch.setattr(command, "connect", lambda host_: Moved(host))
    monkeypatch.setattr(command, "probe", lambda *given: staged.facts(environments=()))
    return host


def test_the_command_removes_once_and_then_finds_nothing(
    fleet: LocalHost, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["remove", "lab.py", "--yes"]) == 0
    said = capsys.readouterr().out
    assert "/etc/modprobe.d/gpufleet-nouveau.conf" in said
    assert "vendor packages, the driver and /usr/local/cuda stay" in said
    assert kept(fleet) == []
    assert main(["remove", "lab.py", "--yes"]) == 0
    assert "0 changes; 1 unchanged" in capsys.readouterr().out


def test_without_a_terminal_it_needs_yes(
    fleet: LocalHost, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["remove", "lab.py"]) == 2
    assert "--yes" in capsys.readouterr().err
    assert len(kept(fleet)) == len(OURS)


def test_an_environment_in_use_keeps_its_host(
    fleet: LocalHost, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    used = Environment(
        id="abc", current=True, complete=True, manifest="m", found="m", in_use=True, wheels={}
    )
    monkeypatch.setattr(command, "probe", lambda *given: staged.facts(environments=(used,)))
    assert main(["remove", "lab.py", "--yes"]) == 4
    assert "/opt/gpufleet/envs/abc" in capsys.readouterr().out
    assert len(kept(fleet)) == len(OURS)


def test_an_unknown_use_keeps_its_host(
    fleet: LocalHost, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    unknown = staged.facts().model_copy(update={"unknown": {"environments": "took too long"}})
    monkeypatch.setattr(command, "probe", lambda *given: unknown)
    assert main(["remove", "lab.py", "--yes"]) == 4
    assert "took too long" in capsys.readouterr().out
    assert len(kept(fleet)) == len(OURS)


def test_another_controllers_host_is_left_to_it(
    fleet: LocalHost, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hostlock, "GRACE_S", 0)
    owner = Owner(controller="alice@box", run="r", since="then")
    with host_lock(fleet.connect(), owner, note=print, line=print):
        assert main(["remove", "lab.py", "--yes"]) == 1
    assert "locked by alice@box" in capsys.readouterr().out
    assert len(kept(fleet)) == len(OURS)
