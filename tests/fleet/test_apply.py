"""apply on real nodes: twice, killed, rebooted under, locked, failing, native, and removed."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.fleet.live import LiveFleet, Result
from tests.sim import paths

pytestmark = pytest.mark.fleet

DRIVER_ONLY = {"cuda": "none", "cudnn": "none", "nccl": "none", "torch": "none"}
JOURNAL = "/var/lib/gpufleet/journal.jsonl"
EXTRA = {
    "PYTHONPATH": str(paths.REPOSITORY),
    "PYINFRA_PROGRESS": "off",
    "RUST_BACKTRACE": "1",  # an OpenPGP library that walks the stack of a greenlet crashes
}
GPUFLEET = (sys.executable, "-m", "deploy.cli")
SITE = paths.REPOSITORY / "deploy/site.py"


class Lab:
    """A folder of a user's own: an inventory of some nodes, and gpufleet run in it."""

    def __init__(self, fleet: LiveFleet, folder: Path, nodes: dict[str, dict[str, Any]]) -> None:
        self.fleet, self.folder = fleet, folder
        self.wish(nodes)

    def wish(self, nodes: dict[str, dict[str, Any]]) -> None:
        """What is wanted from now on; the lock is forgotten."""
        common = {
            "ssh_config_file": str(self.fleet.ssh_config),
            "ssh_known_hosts_file": str(self.fleet.directory / "known_hosts"),
            "vendor_repository": self.fleet.vendor_url,
            "vendor_key_fingerprint": self.fleet.vendor_key_fingerprint,
            "torch_index": f"{self.fleet.document['wheels_by_build_url']}/cpu",
            # No limit of a node can be raised above this machine's own.
            "thresholds": {"train.memlock-mib": 8},
        }
        hosts = [(name, {**common, **wishes}) for name, wishes in nodes.items()]
        (self.folder / "lab.py").write_text(f"gpus = {hosts!r}\n")
        (self.folder / "lab.lock").unlink(missing_ok=True)

    def gpufleet(self, *words: str, timeout: float = 900) -> Result:
        return self.run(*GPUFLEET, *words, timeout=timeout)

    def run(self, *argv: str, timeout: float = 900) -> Result:
        done = self.start(*argv)
        out, err = done.communicate(timeout=timeout)
        return Result(done.returncode, out, err)

    def start(self, *argv: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            argv,
            cwd=self.folder,
            env=os.environ | EXTRA,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def apply(self, *more: str) -> Result:
        return self.gpufleet("apply", "lab.py", "--yes", "--reboot", *more)

    def start_apply(self) -> subprocess.Popen[str]:
        return self.start(*GPUFLEET, "apply", "lab.py", "--yes", "--reboot")

    def runs(self) -> list[Path]:
        return sorted((self.folder / "runs").glob("*"), key=lambda path: path.stat().st_ctime_ns)

    def events(self, run: Path) -> list[dict[str, Any]]:
        lines = (run / "journal.jsonl").read_text().splitlines()
        return [json.loads(line) for line in lines if line.endswith("}")]

    def wait_for(self, word: str, deadline_s: float = 180) -> None:
        """Until the newest run has begun a command whose title holds `word`."""
        end = time.monotonic() + deadline_s
        while time.monotonic() < end:
            for run in self.runs()[-1:]:
                for event in self.events(run):
                    if event["event"] == "command-began" and word in event["title"]:
                        return
            time.sleep(0.1)
        raise AssertionError(f"nothing with {word!r} began within {deadline_s} s")

    def journal(self, node: str) -> list[dict[str, Any]]:
        """The node's own record."""
        text = self.fleet.root(node, f"cat {JOURNAL} 2>/dev/null || :").ok()
        return [json.loads(line) for line in text.splitlines() if line.startswith("{")]

    def facts(self, *nodes: str) -> dict[str, Any]:
        done = self.gpufleet("facts", "lab.py", "--json").ok()
        document: dict[str, Any] = json.loads(done)["facts"]
        return {name: document[name] for name in nodes}


def status(done: Result) -> str:
    return f"exit {done.status}\n{done.out[-4000:]}\n{done.err[-2000:]}"


def test_the_second_apply_executes_nothing(pristine: LiveFleet, tmp_path: Path) -> None:
    full = {"torch": "2.13.0", "torch_build": "cpu"}
    nodes = {name: DRIVER_ONLY for name in ("h100-01", "v100-01", "cpu-01")}
    lab = Lab(pristine, tmp_path, {"l40s-01": full, **nodes})
    first = lab.apply()
    assert first.status == 0, status(first)
    assert "no lock yet: solved 4 hosts and wrote lab.lock" in first.out
    assert "no verification gate ran" in first.out

    marks = f"wc -l <{JOURNAL}; stat -c %Y /var/log/dpkg.log; cat /proc/sys/kernel/random/boot_id"
    before = {name: pristine.root(name, marks).ok() for name in pristine.nodes}
    second = lab.apply()
    assert second.status == 0, status(second)
    assert "0 changes; 4 unchanged" in second.out
    assert {name: pristine.root(name, marks).ok() for name in pristine.nodes} == before
    assert not [event for event in lab.events(lab.runs()[-1]) if "command" in event["event"]]
    assert list((lab.runs()[-1] / "logs").iterdir()) == []
    assert lab.gpufleet("plan", "lab.py", "--check").status == 0

    for part in ("/etc/profile.d/gpufleet-cuda.sh", "/etc/modprobe.d/gpufleet-nouveau.conf"):
        pristine.root("l40s-01", f"echo '# edited' >>{part}").ok()
    healed = lab.apply()
    assert healed.status == 0, status(healed)
    assert "3 unchanged" in healed.out
    assert lab.gpufleet("plan", "lab.py", "--check").status == 0


def test_a_killed_controller_costs_nothing_but_time(pristine: LiveFleet, tmp_path: Path) -> None:
    """Ten times kill -9 at random moments, on a node that needs its nouveau rebooted away."""
    node = "v100-01"
    pristine.fault(node, "nouveau")
    pristine.fault(node, "dkms-slow:3")
    lab = Lab(pristine, tmp_path, {node: DRIVER_ONLY})
    lab.gpufleet("lock", "lab.py").ok()
    moments = random.Random(20260131)
    for _ in range(10):
        controller = lab.start_apply()
        try:
            controller.communicate(timeout=moments.uniform(1.5, 12.0))
        except subprocess.TimeoutExpired:
            controller.send_signal(signal.SIGKILL)
            controller.communicate()
    last = lab.apply()
    for _ in range(5):
        if last.status != 4:  # 4: it is away just now, for the reboot that a killed run asked for
            break
        time.sleep(2)
        last = lab.apply()
    assert last.status == 0, status(last)
    asked = [entry["boot_id"] for entry in lab.journal(node) if entry["event"] == "reboot-asked"]
    assert len(asked) == 1, "one reboot was needed, and no killed run repeated it"
    assert lab.gpufleet("plan", "lab.py", "--check").status == 0
    assert "0 changes" in lab.apply().out


def test_a_new_controller_waits_for_what_a_dead_one_left_running(
    pristine: LiveFleet, tmp_path: Path
) -> None:
    node = "l40s-01"
    pristine.fault(node, "dkms-slow:12")
    lab = Lab(pristine, tmp_path, {node: DRIVER_ONLY})
    first = lab.start_apply()
    lab.wait_for("modules) is installed")
    time.sleep(3)
    first.send_signal(signal.SIGKILL)
    first.communicate()
    second = lab.apply()
    assert second.status == 0, status(second)
    assert "waiting for what an earlier controller left running: driver:" in second.out
    ended = [entry for entry in lab.journal(node) if entry["event"] == "ended"]
    assert {entry["rc"] for entry in ended} == {0}, "the orphan was not disturbed"


def test_an_interrupt_says_what_is_in_flight_and_harms_nothing(
    pristine: LiveFleet, tmp_path: Path
) -> None:
    node = "l40s-01"
    pristine.fault(node, "dkms-slow:8")
    lab = Lab(pristine, tmp_path, {node: DRIVER_ONLY})
    first = lab.start_apply()
    lab.wait_for("modules) is installed")
    first.send_signal(signal.SIGINT)
    out, err = first.communicate(timeout=30)
    assert first.returncode == 130, status(Result(first.returncode, out, err))
    assert "interrupted while changing:" in out
    assert f"{node}: 8/" in out
    record = json.loads((lab.runs()[-1] / "run.json").read_text())
    assert (record["state"], record["hosts"]) == ("interrupted", {node: "interrupted"})
    second = lab.apply()
    assert second.status == 0, status(second)
    ended = [entry for entry in lab.journal(node) if entry["event"] == "ended"]
    assert {entry["rc"] for entry in ended} == {0}, "what was in flight ended by itself"


def test_a_node_rebooted_in_the_middle_is_taken_up_again(
    pristine: LiveFleet, tmp_path: Path
) -> None:
    node = "l40s-01"
    pristine.fault(node, "dkms-slow:8")
    lab = Lab(pristine, tmp_path, {node: DRIVER_ONLY, "cpu-01": DRIVER_ONLY})
    first = lab.start_apply()
    lab.wait_for("modules) is installed")
    time.sleep(2)
    pristine.reboot(node)
    out, err = first.communicate(timeout=300)
    assert first.returncode == 0, status(Result(first.returncode, out, err))
    assert f"{node}: connection lost" in out
    assert "package database is whole" in out, "dpkg was cut off by the reboot"
    assert lab.gpufleet("plan", "lab.py", "--check").status == 0


def test_two_controllers_do_not_meet_on_a_host(pristine: LiveFleet, tmp_path: Path) -> None:
    node = "l40s-01"
    pristine.fault(node, "dkms-slow:15")
    lab = Lab(pristine, tmp_path, {node: DRIVER_ONLY, "cpu-01": DRIVER_ONLY})
    lab.gpufleet("lock", "lab.py").ok()
    first = lab.start(*GPUFLEET, "apply", "lab.py", "--yes", "--limit", node)
    lab.wait_for("modules) is installed")
    second = lab.apply()
    out, err = first.communicate(timeout=300)
    assert first.returncode == 0, status(Result(first.returncode, out, err))
    assert second.status == 1, status(second)
    assert f"{node}: locked" in second.out
    assert "locked by " in second.out
    assert "cpu-01: converged" in second.out
    assert lab.apply().status == 0


def test_a_host_that_does_not_answer_delays_nobody(pristine: LiveFleet, tmp_path: Path) -> None:
    pristine.fault("h100-01", "unreachable")
    # Whatever logs in to this one hangs: sshd accepts and says nothing.
    pristine.root("v100-01", "systemctl kill --kill-whom=main --signal=STOP ssh").ok()
    try:
        nodes = ("h100-01", "v100-01", "l40s-01", "cpu-01")
        lab = Lab(pristine, tmp_path, dict.fromkeys(nodes, DRIVER_ONLY))
        done = lab.apply()
    finally:
        pristine.root("v100-01", "systemctl kill --kill-whom=main --signal=CONT ssh")
        pristine.heal("h100-01")
    assert done.status == 4, status(done)
    for name in ("h100-01", "v100-01"):
        assert f"{name}: unreachable" in done.out
    for name in ("l40s-01", "cpu-01"):
        assert f"{name}: converged" in done.out


def test_a_failing_module_build_shows_make_log_and_heals(
    pristine: LiveFleet, tmp_path: Path
) -> None:
    node = "h100-01"
    pristine.fault(node, "dkms-fails")
    lab = Lab(pristine, tmp_path, {node: DRIVER_ONLY, "cpu-01": DRIVER_ONLY})
    done = lab.apply()
    assert done.status == 1, status(done)
    assert "make.log" in done.out
    said = pristine.root(node, "cat /var/lib/dkms/nvidia*/*/build/make.log").ok()
    error = next(line for line in said.splitlines() if "rror" in line)
    assert error.strip() in done.out, status(done)
    assert f"next: gpufleet apply lab.py --limit {node}" in done.out
    assert "cpu-01: converged" in done.out
    pristine.heal(node)
    again = lab.apply()
    assert again.status == 0, status(again)
    assert lab.gpufleet("plan", "lab.py", "--check").status == 0


def test_a_busy_host_is_left_alone_and_listed(pristine: LiveFleet, tmp_path: Path) -> None:
    node = "l40s-01"
    lab = Lab(pristine, tmp_path, {node: {"driver": "580.159.04", **DRIVER_ONLY}})
    assert lab.apply().status == 0
    lab.wish({node: {"driver": "580.178.04", **DRIVER_ONLY}})
    with pristine.broken(node, "busy:0"):
        done = lab.apply()
        assert done.status == 4, status(done)
        assert f"{node}: busy" in done.out
        assert "trainer" in done.out
        assert "580.159.04" in pristine.root(node, "cat /sys/module/nvidia/version").ok()
    freed = lab.apply()
    assert freed.status == 0, status(freed)
    assert "580.178.04" in pristine.root(node, "cat /sys/module/nvidia/version").ok()


def test_without_consent_nothing_reboots(pristine: LiveFleet, tmp_path: Path) -> None:
    node = "v100-01"
    pristine.fault(node, "nouveau")
    boot = pristine.boot_id(node)
    lab = Lab(pristine, tmp_path, {node: DRIVER_ONLY})
    done = lab.gpufleet("apply", "lab.py", "--yes")
    assert done.status == 4, status(done)
    assert f"{node}: reboot-pending" in done.out
    assert pristine.boot_id(node) == boot
    agreed = lab.apply()
    assert agreed.status == 0, status(agreed)
    assert pristine.boot_id(node) != boot


def test_pyinfra_itself_brings_the_same_state(pristine: LiveFleet, tmp_path: Path) -> None:
    node = "v100-01"
    lab = Lab(pristine, tmp_path, {node: DRIVER_ONLY})
    pristine.fault(node, "nouveau")
    assert lab.apply().status == 0
    ours = lab.facts(node)[node]
    pristine.restore(node)
    pristine.fault(node, "nouveau")
    dry = lab.run(*_pyinfra(), "--dry", "lab.py", str(SITE))
    assert dry.status == 0, status(dry)
    assert f"1 ({node})" in dry.err + dry.out
    assert lab.journal(node) == []
    done = lab.run(*_pyinfra(), "-y", "--data", "gpufleet_reboot=yes", "lab.py", str(SITE))
    assert done.status == 0, status(done)
    theirs = lab.facts(node)[node]
    own = {"boot_id", "uptime_s", "disks"}
    assert {k: v for k, v in theirs.items() if k not in own} == {
        k: v for k, v in ours.items() if k not in own
    }
    again = lab.run(*_pyinfra(), "-y", "lab.py", str(SITE))
    assert again.status == 0, status(again)
    assert "Bring hosts" not in again.err + again.out
    assert lab.gpufleet("plan", "lab.py", "--check").status == 0


def _pyinfra() -> tuple[str, ...]:
    return (sys.executable, "-c", "from pyinfra_cli.main import main; main()")


def test_remove_takes_everything_of_ours_and_leaves_the_driver(
    pristine: LiveFleet, tmp_path: Path
) -> None:
    node = "l40s-01"
    lab = Lab(pristine, tmp_path, {node: {"torch": "none"}})
    assert lab.apply().status == 0
    done = lab.gpufleet("remove", "lab.py", "--yes")
    assert done.status == 0, status(done)
    look = (
        "find / -xdev -path /proc -prune -o -name '*gpufleet*' -print 2>/dev/null"
        " | grep -v -e ^/run/ -e ^/tmp/ || :"
    )
    assert pristine.root(node, look).ok() == ""
    assert "580." in pristine.root(node, "cat /sys/module/nvidia/version; nvidia-smi -L").ok()
    second = lab.gpufleet("remove", "lab.py", "--yes")
    assert second.status == 0, status(second)
    assert "0 changes; 1 unchanged" in second.out
