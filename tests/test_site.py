"""`pyinfra INVENTORY deploy/site.py`, by pyinfra's own command, takes the same path as apply."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests import staged
from tests.localhost import LocalHost

pytestmark = pytest.mark.long

ROOT = Path(__file__).parent.parent
SITE = ROOT / "deploy/site.py"


CANARIES = {"ssh_password": "c4nary-one", "_sudo_password": "c4nary-two"}


class Native:
    """Three directory hosts, an inventory, a lock, and pyinfra's command."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.hosts = {}
        for name in ("a", "b", "c"):
            host = LocalHost(root / "hosts" / name, f"@fake/{name}")
            (host.root / "opt/gpufleet/parts").mkdir(parents=True)
            script = host.root / "on-boot"
            script.write_text(f"#!/bin/sh\necho 1 >{self.part(name, 'loaded')}\n")
            script.chmod(0o755)
            self.hosts[name] = host
        quick = {"fake_delay": 0.0, "fake_delay_jitter": 0.0, **CANARIES}
        names = [(f"@fake/{name}", quick) for name in self.hosts]
        (root / "lab.py").write_text(f"gpus = {names!r}\n")
        (root / "lab.lock").write_text("{}\n")

    def part(self, host: str, name: str) -> Path:
        return self.root / "hosts" / host / "opt/gpufleet/parts" / name

    def pyinfra(self, *words: str) -> tuple[int, str]:
        done = subprocess.run(
            [sys.executable, "-m", "tests.native_driver", str(self.root / "hosts"), *words],
            cwd=self.root,
            env={**os.environ, "PYTHONPATH": str(ROOT), "PYINFRA_PROGRESS": "off"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
        )
        return done.returncode, done.stdout + done.stderr

    def touched(self) -> list[str]:
        return [name for name, host in self.hosts.items() if host.journal or host.reboots]


@pytest.fixture
def native(tmp_path: Path) -> Native:
    return Native(tmp_path)


def test_dry_shows_which_hosts_would_change_and_changes_nothing(native: Native) -> None:
    native.part("b", "foreign").write_text("DGX OS\n")
    for part in (*staged.STEPS, "loaded", "service"):
        native.part("c", part).write_text("1\n")
    code, said = native.pyinfra("--dry", "lab.py", str(SITE))
    assert code == 0, said
    change = next(line for line in said.splitlines() if "Bring hosts to their" in line)
    assert "1 (@fake/a)" in change
    assert "base: base is there (no base)" in said
    assert "[@fake/b] DGX OS" in said
    assert native.touched() == []
    assert not (native.root / "runs").exists()


def test_a_run_converges_with_consent_and_the_next_finds_nothing(native: Native) -> None:
    code, said = native.pyinfra("-y", "--data", "gpufleet_reboot=yes", "lab.py", str(SITE))
    assert code == 0, said
    assert all(len(host.reboots) == 1 for host in native.hosts.values())
    (run,) = (native.root / "runs").iterdir()
    record = json.loads((run / "run.json").read_text())
    assert set(record["hosts"].values()) == {"converged"}
    assert record["state"] == "finished"
    journals = [host.journal for host in native.hosts.values()]
    code, said = native.pyinfra("-y", "lab.py", str(SITE))
    assert code == 0, said
    assert "Bring hosts" not in said
    assert [host.journal for host in native.hosts.values()] == journals


def test_a_host_that_cannot_be_changed_stops_nobody_and_nothing_reboots_unasked(
    native: Native,
) -> None:
    native.part("a", "foreign").write_text("DGX OS\n")
    native.part("b", "busy").write_text("job 4711 of alice\n")
    code, said = native.pyinfra("-y", "-vvv", "lab.py", str(SITE))
    assert code == 1
    assert "building" in said, "-vvv shows what commands print"
    kept = [path.read_text() for path in (native.root / "runs").rglob("*") if path.is_file()]
    assert not [text for text in (said, *kept) if "c4nary" in text]
    assert "DGX OS" in said
    assert "job 4711 of alice" in said
    assert "Traceback" not in said
    assert native.hosts["a"].journal == []
    assert "reboot-pending" in said
    assert "--data gpufleet_reboot=yes" in said
    assert native.part("c", "env").exists()
    assert [host.reboots for host in native.hosts.values()] == [[], [], []]


def test_a_missing_lock_names_the_command_that_makes_it(native: Native) -> None:
    (native.root / "lab.lock").unlink()
    code, said = native.pyinfra("-y", "lab.py", str(SITE))
    assert code == 1
    assert "gpufleet lock lab.py" in said
    assert native.touched() == []


def test_a_wrong_inventory_stops_the_run_before_any_probe(native: Native) -> None:
    (native.root / "lab.py").write_text("gpus = [('@fake/a', {'drivr': '580'})]\n")
    code, said = native.pyinfra("-y", "lab.py", str(SITE))
    assert code == 1
    assert "did you mean driver" in said
    assert native.touched() == []


def test_a_stale_lock_stops_the_run_and_names_the_command(native: Native) -> None:
    (native.root / "lab.lock").write_text("stale\n")
    code, said = native.pyinfra("-y", "lab.py", str(SITE))
    assert code == 1
    for name in native.hosts:
        assert f"@fake/{name}: its wishes changed" in said
    assert native.touched() == []


def test_hosts_named_on_the_command_line_have_no_lock(native: Native) -> None:
    code, said = native.pyinfra("-y", "@fake/a", str(SITE))
    assert code == 1
    assert "is no inventory file" in said
