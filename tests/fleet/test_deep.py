"""Level deep on a real host: it runs apart, is refused twice, collected, stopped, and lost."""

from __future__ import annotations

import json
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from tests.fleet.live import LiveFleet, Result
from tests.fleet.test_apply import GPUFLEET, Lab, status
from tests.fleet.test_verify_training import WISHES
from verify.results import HostResult

pytestmark = pytest.mark.fleet

NODE = "l40s-01"
SOAK = ("soak.ended", "soak.memory", "soak.compute", "soak.stable", "soak.thermal", "soak.counters")
ASKED = ["--level", "deep", "--minutes", "1", *(word for id in SOAK for word in ("--check", id))]
"""Of level deep the soak alone: the rest is asked by tests of its own."""


@pytest.fixture(scope="module")
def lab(fleet: LiveFleet, tmp_path_factory: pytest.TempPathFactory) -> Lab:
    """One node, converged, with the CPU build of torch, whose soaks are short."""
    made = Lab(fleet, tmp_path_factory.mktemp("lab"), {NODE: WISHES})
    done = made.apply()
    assert done.status == 0, status(done)
    fleet.fault(NODE, "soak-short:8")
    return made


def newest(lab: Lab) -> str:
    return lab.runs()[-1].name


def document(lab: Lab, run: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(
        (lab.folder / "runs" / run / f"hosts/{NODE}.json").read_text()
    )
    return found


def collected(lab: Lab, run: str, deadline_s: float = 240) -> Result:
    """`gpufleet status RUN`, until nothing of the run is open."""
    end = time.monotonic() + deadline_s
    while True:
        done = lab.gpufleet("status", run)
        if not (lab.folder / "runs" / run / "deep.json").exists():
            return done
        assert "level deep runs there" in " ".join(done.out.split()), status(done)
        assert done.status == 4, status(done)
        assert time.monotonic() < end, status(done)
        time.sleep(2)


def test_a_soak_runs_apart_is_refused_twice_and_collected(lab: Lab) -> None:
    done = lab.gpufleet("verify", "lab.py", *ASKED, "--detach")
    assert done.status == 4, status(done)
    run = newest(lab)
    unit = lab.fleet.root(NODE, "systemctl is-active gpufleet-deep-*").ok()
    assert "active" in unit
    again = lab.gpufleet("verify", "lab.py", *ASKED)
    assert again.status == 4, status(again)
    text = " ".join(again.out.split())
    assert f"run {run}" in text
    assert f"gpufleet status {run}" in text
    done = collected(lab, run)
    assert done.status == 0, status(done)
    result = HostResult.model_validate(document(lab, run)["result"])
    assert {one.id: one.verdict for one in result.checks} == dict.fromkeys(SOAK, "pass")
    assert any("shortened to 8 s" in line for line in result.information)
    names = {one.name for one in result.measurements}
    assert {"soak.rate", "soak.temperature", "soak.power", "soak.memory-rounds"} <= names
    assert "sign-off" in (lab.folder / "runs" / run / "report.html").read_text()
    assert lab.fleet.root(NODE, "pgrep -f payload/[s]oak.py || :").ok() == ""


@pytest.mark.soak
def test_a_reboot_in_the_middle_is_told_with_what_was_done(lab: Lab) -> None:
    lab.fleet.heal(NODE, "soak-short")
    lab.gpufleet("verify", "lab.py", *ASKED, "--detach")
    run = newest(lab)
    begun = f"/var/lib/gpufleet/deep/{run}/soak/rank-1.json"
    lab.fleet.root(NODE, f"until grep -qs walking-ones {begun}; do sleep 1; done").ok()
    lab.fleet.reboot(NODE)
    done = lab.gpufleet("status", run)
    lab.fleet.fault(NODE, "soak-short:8")
    assert done.status == 4, status(done)
    found = document(lab, run)
    assert "rebooted in the middle, in order" in found["message"]
    assert any(note.startswith("rank 0: ") for note in found["notes"])


@pytest.mark.soak
def test_a_soak_that_was_killed_is_lost_and_hangs(lab: Lab) -> None:
    lab.gpufleet("verify", "lab.py", *ASKED, "--detach")
    run = newest(lab)
    lab.fleet.root(NODE, f"kill -9 $(cat /var/lib/gpufleet/deep/{run}/pid)").ok()
    done = lab.gpufleet("status", run)
    assert done.status == 1, status(done)
    assert "its process was killed" in document(lab, run)["message"]
    assert document(lab, run)["verdict"] == "hung"
    assert lab.fleet.root(NODE, "pgrep -f verify/[o]nhost.py || :").ok() == ""


@pytest.mark.soak
def test_an_interrupted_controller_leaves_it_running_and_another_one_collects(
    lab: Lab, tmp_path: Path
) -> None:
    waiting = lab.start(*GPUFLEET, "verify", "lab.py", *ASKED)
    run = ""
    while not run or not (lab.folder / "runs" / run / "deep.json").exists():
        time.sleep(0.2)
        run = newest(lab)
    time.sleep(2)
    waiting.send_signal(signal.SIGINT)
    _, err = waiting.communicate(timeout=60)
    assert f"gpufleet status {run}" in err
    other = tmp_path / "other"
    other.mkdir()
    shutil.copy(lab.folder / "lab.py", other / "lab.py")
    theirs = Lab.__new__(Lab)
    theirs.fleet, theirs.folder = lab.fleet, other
    found = theirs.gpufleet("status", "--inventory", "lab.py")
    done = collected(theirs, newest(theirs)) if found.status == 4 else found
    assert done.status == 0, status(done)
    assert collected(lab, run).status == 0


@pytest.mark.soak
def test_a_soak_is_stopped_on_demand_and_by_a_job(lab: Lab) -> None:
    lab.fleet.heal(NODE, "soak-short")
    try:
        lab.gpufleet("verify", "lab.py", *ASKED, "--detach")
        run = newest(lab)
        lab.gpufleet("status", run, "--stop")
        done = collected(lab, run)
        assert done.status == 4, status(done)
        assert "stopped by" in " ".join(done.out.split())
        lab.gpufleet("verify", "lab.py", *ASKED, "--detach")
        run = newest(lab)
        lab.fleet.root(NODE, "until pgrep -f payload/[s]oak.py; do sleep 1; done").ok()
        with lab.fleet.broken(NODE, "busy:0"):
            done = collected(lab, run)
        assert done.status == 4, status(done)
        assert "stopped early: busy:" in " ".join(done.out.split())
    finally:
        lab.fleet.fault(NODE, "soak-short:8")
