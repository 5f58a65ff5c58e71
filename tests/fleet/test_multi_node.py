"""Training across real hosts over gloo: green, and in the long run who is at fault.

Rows of tests/faulted/multi.py bring a bad host, a bad link and a nameless host (make soak).
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.faulted.row import L40S, V100
from tests.fleet.live import LiveFleet, Result
from tests.fleet.test_apply import Lab, status
from tests.fleet.test_verify_training import WISHES
from verify.multi.claims import NODES

pytestmark = pytest.mark.fleet

CPU = "cpu-01"
MEMBERS = (CPU, L40S)
WITHOUT_DRIVER = {**WISHES, "driver": "none"}
OURS = "train_nodes|torch.distributed.run|within.py|attended.py"


@pytest.fixture(scope="module")
def lab(fleet: LiveFleet, tmp_path_factory: pytest.TempPathFactory) -> Lab:
    """Two nodes with the CPU build of torch, and one without any."""
    wishes: dict[str, dict[str, Any]] = dict.fromkeys(MEMBERS, WITHOUT_DRIVER)
    made = Lab(fleet, tmp_path_factory.mktemp("lab"), wishes)
    done = made.apply()
    assert done.status == 0, status(done)
    return made


def across(lab: Lab, *more: str) -> tuple[Result, dict[str, Any], list[dict[str, Any]]]:
    """`gpufleet verify --multi-node`: what it said, each host's file, and the journal's events."""
    done = lab.gpufleet("verify", "lab.py", "--multi-node", *more)
    place = lab.runs()[-1]
    hosts = {path.stem: json.loads(path.read_text()) for path in (place / "hosts").iterdir()}
    return done, hosts, lab.events(place)


def causes(hosts: dict[str, Any]) -> dict[str, set[str]]:
    return {
        name: {
            check["id"]
            for check in (one["result"] or {"checks": ()})["checks"]
            if any(not finding["because"] for finding in check["findings"])
        }
        for name, one in hosts.items()
    }


def nothing_is_left(lab: Lab, *nodes: str) -> None:
    """No process of ours, and no folder, wherever a run ended."""
    until = time.monotonic() + 20
    for node in nodes:
        look = f"pgrep -af '[/ ]({OURS})' | grep -v pgrep; ls -d /tmp/gpufleet-nodes-* 2>/dev/null"
        while left := lab.fleet.root(node, f"{look} || :").ok():
            assert time.monotonic() < until, f"{node}: {left}"
            time.sleep(1)


def test_two_hosts_train_together_and_nothing_is_left(lab: Lab) -> None:
    done, hosts, events = across(lab)
    assert done.status == 0, status(done)
    assert causes(hosts) == {name: set() for name in MEMBERS}
    for one in hosts.values():
        result = one["result"]
        ids = {check["id"]: check["verdict"] for check in result["checks"]}
        not_asked = {entry["id"]: entry["reason"] for entry in result["not_asked"]}
        assert {ids[claim.id] for claim in NODES if claim.id in ids} == {"pass"}
        assert "gloo joins hosts by TCP (interface host0)" in not_asked["nodes.transport"]
        figures = [each for each in result["measurements"] if each["name"] == "bench.all-reduce"]
        assert {each["conditions"]["world"] for each in figures} == {"2"}
        assert result["document"] == ""
    (trained,) = [one for one in events if one["event"] == "trained-across"]
    assert trained["passed"]
    log = (lab.runs()[-1] / "logs" / f"{CPU}.log").read_text()
    assert json.loads(log)["run"]["user"] == "ops"
    nothing_is_left(lab, *MEMBERS)


@pytest.fixture(scope="module")
def three(lab: Lab) -> Lab:
    """A third node takes part."""
    lab.wish(dict.fromkeys((*MEMBERS, V100), WITHOUT_DRIVER))
    done = lab.apply()
    assert done.status == 0, status(done)
    return lab


def while_it_trains(lab: Lab, node: str, then: Callable[[], None]) -> threading.Thread:
    """Do something as soon as a rank of a node is in a collective."""

    def wait() -> None:
        until = time.monotonic() + 120
        look = "cat /tmp/gpufleet-*/*/rank-0.at /tmp/gpufleet-nodes-*/rank-0.at 2>/dev/null || :"
        while " collectives " not in lab.fleet.root(node, look).out:
            if time.monotonic() > until:
                return
            time.sleep(0.2)
        then()

    thread = threading.Thread(target=wait)
    thread.start()
    return thread


@pytest.mark.soak
@pytest.mark.parametrize("node", [CPU, L40S], ids=["the first server", "another"])
def test_a_host_that_dies_while_it_trains_is_named(three: Lab, node: str) -> None:
    fleet = three.fleet
    dying = while_it_trains(three, node, lambda: fleet.fault(node, "unreachable"))
    try:
        done, hosts, _ = across(three)
    finally:
        dying.join()
        fleet.heal(node)
    assert done.status == 1, status(done)
    found = causes(hosts)
    assert found.pop(node) == {"nodes.host"}
    assert set().union(*found.values()) == set()
    nothing_is_left(three, *MEMBERS, V100)


@pytest.mark.soak
def test_a_controller_that_is_killed_leaves_nothing_behind(three: Lab) -> None:
    words = ("verify", "lab.py", "--multi-node")
    from tests.fleet.test_apply import GPUFLEET

    running = three.start(*GPUFLEET, *words)
    stopping = while_it_trains(three, L40S, running.kill)
    running.communicate(timeout=300)
    stopping.join()
    nothing_is_left(three, *MEMBERS, V100)


def test_the_bundle_carries_what_a_host_needs() -> None:
    from verify.bundle import bundle

    files = bundle().files
    for name in ("nodes.py", "test_nodes.py", "payload/train_nodes.py", "payload/ranks.py"):
        assert f"verify/{name}" in files
    assert not [one for one in files if one.startswith("verify/multi/")]
    assert Path("verify/multi/run.py").is_file()
