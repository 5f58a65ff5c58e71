"""Whatever is killed or left lying about, the next `up` works, and `down` removes everything."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fleet.conftest import NAME
from tests.fleet.live import PYTHON, LiveFleet, command, sim
from tests.sim import paths

OTHER = f"{NAME}-killed"
NODES = "a:hgx-h100,b:none"


def as_root(*argv: str) -> str:
    return command(*([] if os.geteuid() == 0 else ["sudo", "-n"]), *argv).out


def kill(pid: int, group: bool = False) -> None:
    """Kill a process that this test started, or its whole group.

    Not by kill(1): that of procps 4.0.2 reads `-KILL -1234` as process -1, which is everything.
    """
    assert pid > 1
    code = f"import os; os.{'killpg' if group else 'kill'}({pid}, 9)"
    as_root(PYTHON, "-c", code)


def traces(index: int) -> list[str]:
    """Return what is left on this machine of a fleet with this index."""
    left = [x for x in as_root("iptables-save").splitlines() if f"10.77.{index}." in x]
    left += [x for x in as_root("ip", "-br", "link").splitlines() if f"gpufleet-sim{index} " in x]
    left += [str(d) for d in Path("/sys/fs/cgroup").glob(f"*/gpufleet-sim/{OTHER}")]
    left += [str(d) for d in paths.fleets().glob(f"{OTHER}*")]
    left += [x for x in Path("/proc/mounts").read_text().splitlines() if f"/{OTHER}/" in x]
    for cmdline in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if OTHER.encode() in cmdline.read_bytes().split(b"\0"):
                left.append(str(cmdline))
        except OSError:
            continue
    return left


@pytest.fixture
def other() -> Iterator[LiveFleet]:
    """Another fleet than the one that all tests share; nothing of it is left afterwards."""
    yield LiveFleet(OTHER)
    sim("down", "--fleet", OTHER).ok()


def up(fleet: LiveFleet) -> int:
    """Bring it up, see that both nodes work, and return its index."""
    sim("up", "--fleet", fleet.name, "--nodes", NODES).ok()
    for node in ("a", "b"):
        assert fleet.ssh(node, "hostname").ok().strip() == node
    return int(fleet.document["index"])


def test_up_killed_at_any_moment(other: LiveFleet) -> None:
    index = None
    for delay_s in (0.15, 0.3, 0.5, 0.8, 1.2, 1.7):
        killed = subprocess.Popen(
            [PYTHON, "-m", "tests.sim", "up", "--fleet", other.name, "--nodes", NODES],
            cwd=paths.REPOSITORY, stderr=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        time.sleep(delay_s)
        kill(killed.pid, group=True)
        killed.wait()
        index = up(other)
        sim("down", "--fleet", other.name).ok()
        assert traces(index) == []
    assert index is not None


def test_killed_processes_and_lost_files_are_made_good(other: LiveFleet) -> None:
    index = up(other)
    status = json.loads(sim("status", "--fleet", other.name, "--json").ok())
    other.ssh("b", "echo kept > file").ok()
    kill(status["nodes"]["b"]["pid"])
    as_root("ip", "link", "delete", f"gpufleet-sim{index}")
    (other.directory / "ssh_config").unlink()
    assert up(other) == index
    assert other.ssh("b", "cat file").ok() == "kept\n"
    other.ssh("b", f"curl -fsS {other.vendor_url}/InRelease").ok()


def test_down_removes_a_fleet_whose_description_is_damaged(other: LiveFleet) -> None:
    index = up(other)
    as_root("sh", "-c", f"echo '{{' > {other.directory}/fleet.json")
    damaged = sim("up", "--fleet", other.name)
    assert damaged.status == 1
    assert f"down --fleet {other.name}" in damaged.err
    sim("down", "--fleet", other.name).ok()
    assert traces(index) == []


def test_two_fleets_do_not_meet(fleet: LiveFleet, other: LiveFleet) -> None:
    up(other)
    assert set(fleet.nodes.values()).isdisjoint(other.nodes.values())
    sim("down", "--fleet", other.name).ok()
    for node in fleet.nodes:
        fleet.ssh(node, "true").ok()


def test_up_refuses_other_nodes_than_the_fleet_has(other: LiveFleet) -> None:
    up(other)
    refused = sim("up", "--fleet", other.name, "--nodes", "a:l40s")
    assert refused.status == 2
    assert NODES in refused.err
