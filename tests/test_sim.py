"""The parts of the simulated fleet that decide: settings, profiles, faults, locks. No root."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.sim import base, faults, fleet, machine, network, paths, proc, profiles
from tests.sim.__main__ import main
from tests.sim.proc import SimError, WrongUseError


@pytest.fixture
def etc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An apt configuration directory of our own."""
    monkeypatch.setattr(base, "ETC_APT", tmp_path)
    monkeypatch.delenv("SIM_MIRROR", raising=False)
    (tmp_path / "sources.list.d").mkdir()
    return tmp_path


def test_the_mirror_is_the_machines_in_either_format(etc: Path) -> None:
    (etc / "sources.list.d/a.sources").write_text(
        "Types: deb\nURIs: http://security.example/s\nSuites: bookworm-security\n"
        "Components: main\n\n"
        "Types: deb deb-src\nURIs: http://mirror.example/d\n"
        "Suites: bookworm bookworm-updates trixie\nComponents: main contrib\n\n"
        "Enabled: no\nTypes: deb\nURIs: http://off.example/\nSuites: bookworm\nComponents: main\n"
    )
    (etc / "sources.list").write_text(
        "# deb http://comment.example bookworm main\n"
        "deb [arch=amd64 signed-by=/x] http://old.example/d bookworm-updates main # why\n"
        "deb https://other.example/apt tool-bookworm main\n"
    )
    text = base.sources()
    assert base.mirror(text.encode()) == "http://mirror.example/d"
    assert text.count("Types: deb\n") == 3
    assert "Suites: bookworm bookworm-updates\n" in text
    for other in ("off.example", "other.example", "comment.example", "trixie"):
        assert other not in text


def test_without_a_mirror_of_the_suite_the_way_out_is_named(
    etc: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (etc / "sources.list").write_text("deb http://mirror.example/d jammy main\n")
    with pytest.raises(SimError, match="SIM_MIRROR="):
        base.sources()
    monkeypatch.setenv("SIM_MIRROR", "http://given.example/d")
    assert base.mirror(base.sources().encode()) == "http://given.example/d"


def test_loopback_resolvers_do_not_reach_a_node(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = machine.usable_resolvers("nameserver 127.0.0.53\nnameserver 192.0.2.1\nsearch lab\n")
    assert kept == "nameserver 192.0.2.1\nsearch lab\n"
    assert machine.usable_resolvers("nameserver 127.0.0.1\nnameserver ::1\nsearch lab\n") is None


def test_pip_settings_and_their_folders_reach_nodes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = tmp_path / "index/simple"
    index.mkdir(parents=True)
    (tmp_path / "wheels").mkdir()
    user = tmp_path / ".config/pip/pip.conf"
    user.parent.mkdir(parents=True)
    user.write_text(
        f"[global]\nfind-links = {tmp_path}/gone\nextra-index-url =\n  file://{index}\n"
        "timeout = 5\nproxy = http://user:100%@proxy.example\n"
    )
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    for key in list(os.environ):
        if key.startswith("PIP_"):
            monkeypatch.delenv(key)
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "wheels"))
    assert machine.folders() == [tmp_path / "index", tmp_path / "wheels"]
    pip = machine.settings()["etc/pip.conf"].decode()
    assert f"find-links = {tmp_path}/wheels\n" in pip
    assert f"extra-index-url = file://{index}\n" in pip
    assert "timeout" not in pip
    assert "native-tls = true" in machine.settings()["etc/uv/uv.toml"].decode()


def test_identities_of_hardware_are_fixed_and_unique() -> None:
    seen: list[str] = []
    for node in ("h100-01", "h100-02"):
        described = profiles.describe(node, "hgx-h100")
        assert described == profiles.describe(node, "hgx-h100")
        seen += [gpu[key] for gpu in described["gpus"] for key in ("uuid", "serial")]
        slots = [function["slot"] for function in described["pci"]]
        assert len(set(slots)) == len(slots) == 2 + 8 + 4
    assert len(set(seen)) == len(seen) == 32
    assert profiles.describe("cpu-01", "none")["gpus"] == []


def test_every_fault_tells_what_it_is() -> None:
    for kind in faults.kinds().values():
        assert kind.about
        assert kind.argument
    assert faults.kinds()["nvml"].marker("0:lost=1") == "/etc/sim/faults/nvml:0:lost=1"
    assert faults.kinds()["dkms-slow"].marker("5") == "/etc/sim/faults/dkms-slow"
    assert faults.kinds()["busy"].marker("") == "/run/sim/faults/busy"


@pytest.mark.parametrize("fault", ["nuveau", "nouveau:1", "busy:$(id)", "nvml:../x", "busy:1\n2"])
def test_a_wrong_fault_is_refused_before_any_node_sees_it(fault: str) -> None:
    with pytest.raises(WrongUseError):
        faults.parse(fault)


@pytest.mark.parametrize("name", ["", "-x", "a/b", "..", "a b", "A", "a;b", "x" * 31, "a-"])
def test_names_that_would_reach_a_shell_are_refused(name: str) -> None:
    assert not paths.valid_name(name)
    with pytest.raises(WrongUseError):
        fleet.load(name)


def test_addresses_and_interface_names_fit() -> None:
    assert network.subnet(0) == "10.77.0.0/24"
    assert len(network.bridge(254)) <= 15  # IFNAMSIZ


def test_a_lock_names_its_holder_and_falls_with_it(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    assert proc.holder(lock) is None
    code = "import sys; from pathlib import Path; from tests.sim import proc\n"
    code += "proc.take(Path(sys.argv[1])); print(flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", code, str(lock)],
        cwd=paths.REPOSITORY, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    ) as other:  # fmt: skip
        assert other.stdout is not None
        other.stdout.readline()
        assert proc.holder(lock) == other.pid
        assert proc.take(lock) is None
        proc.kill(other.pid)
        assert proc.gone(other.pid)
        assert proc.holder(lock) is None
    descriptor = proc.take(lock)
    assert descriptor is not None
    os.close(descriptor)


@pytest.mark.parametrize("pid", [1, 0, -1, -1234])
def test_only_single_processes_are_killed(pid: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "kill", lambda *_: pytest.fail("everything would have been killed"))
    with pytest.raises(SimError):
        proc.kill(pid)


def test_a_failed_command_tells_what_it_said() -> None:
    with pytest.raises(SimError, match=r"exit 3: no luck"):
        proc.run("sh", "-c", "echo no luck >&2; exit 3")
    with pytest.raises(SimError, match="not installed"):
        proc.run("gpufleet-no-such-command")


def test_set_up_can_ask_for_the_packages(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["packages"]) == 0
    assert {"debootstrap", "systemd-container"} <= set(capsys.readouterr().out.split())
