"""Slurm on real hosts: jobs that are refused, limited, killed; and hosts that it excuses."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.fleet.live import LiveFleet
from tests.fleet.slurm import Slurm
from tests.fleet.test_apply import GPUFLEET, Lab, status
from tests.fleet.test_verify_training import NODE, WISHES, verified

pytestmark = [pytest.mark.fleet, pytest.mark.soak]

OTHER = "cpu-01"
VIA = ("--via", "slurm", "--as", "trainer")
LIMITED = "/etc/systemd/system/slurmd.service.d"


@pytest.fixture(scope="module")
def lab(fleet: LiveFleet, tmp_path_factory: pytest.TempPathFactory) -> Lab:
    """One node, converged, with the CPU build of torch."""
    made = Lab(fleet, tmp_path_factory.mktemp("lab"), {NODE: WISHES})
    done = made.apply()
    assert done.status == 0, status(done)
    return made


@pytest.fixture(scope="module")
def installed(lab: Lab) -> Slurm:
    slurm = Slurm(lab.fleet, {NODE: 2, OTHER: 0})
    slurm.install()
    return slurm


@pytest.fixture
def slurm(installed: Slurm) -> Iterator[Slurm]:
    """Slurm as it was installed, and without a job at the end."""
    installed.configure()
    yield installed
    assert installed.jobs() == []


def left(fleet: LiveFleet) -> str:
    """What of a proof still runs on the node."""
    return fleet.root(NODE, "pgrep -fa '[t]rain_ddp.py|[s]lurm_job.py|[s]run --nodelist' || :").ok()


def test_all_of_a_standard_run_through_slurm_is_what_it_is_directly(lab: Lab, slurm: Slurm) -> None:
    direct, of_direct = verified(lab, "--as", "trainer")
    through, of_job = verified(lab, *VIA)
    assert (direct.status, through.status) == (0, 0), status(through)
    assert {one.id: one.verdict for one in of_direct.checks} == {
        one.id: one.verdict for one in of_job.checks
    }
    assert left(lab.fleet) == ""


def test_a_limit_of_slurmd_is_found_where_a_login_has_none(lab: Lab, slurm: Slurm) -> None:
    """Jobs of the same user die that train directly."""
    slurm.configure(PropagateResourceLimits="NONE")
    unit = f"mkdir -p {LIMITED}; printf '[Service]\\nLimitAS=500M\\n' >{LIMITED}/sim.conf"
    again = "systemctl daemon-reload; systemctl restart slurmd"
    lab.fleet.root(NODE, f"{unit}; {again}").ok()
    try:
        checks = ("--check", "train.limits", "--check", "train.ended")
        through, of_job = verified(lab, *VIA, *checks)
        direct, _ = verified(lab, "--as", "trainer", *checks)
    finally:
        lab.fleet.root(NODE, f"rm -r {LIMITED}; {again}").ok()
    assert direct.status == 0, status(direct)
    assert through.status == 1, status(through)
    found = {one.id: one for one in of_job.checks}
    assert found["train.limits"].findings[0].found == "500 MiB"
    assert found["train.ended"].verdict != "pass"


def test_a_node_in_use_is_left_alone_and_the_job_named(lab: Lab, slurm: Slurm) -> None:
    script = f"runuser -u trainer -- srun --nodelist={NODE} --chdir=/ sleep 100 >/dev/null 2>&1 &"
    lab.fleet.root(NODE, f"{script} sleep 1").ok()
    done, result = verified(lab, *VIA, "--check", "train.starts")
    slurm.ask("scancel -u trainer; sleep 1")
    assert done.status == 4, status(done)
    assert "busy: job 1 of trainer" in result.checks[0].findings[0].found


def test_a_job_that_slurm_does_not_start_says_what_slurm_says(lab: Lab, slurm: Slurm) -> None:
    slurm.ask("scontrol update partitionname=all MaxTime=1")
    done, result = verified(lab, *VIA, "--check", "train.ended", "--check", "train.starts")
    assert done.status in (1, 4), status(done)
    told = [one.found for check in result.checks for one in check.findings]
    assert any("srun" in one or "was not free" in one for one in told), told


@pytest.mark.parametrize("victim", ["controller", "within.py"])
def test_nothing_is_left_behind_whoever_is_killed(lab: Lab, slurm: Slurm, victim: str) -> None:
    words = ("verify", "lab.py", "--level", "standard", "--check", "train.ended", *VIA)
    running = lab.start(*GPUFLEET, *words)
    wait_until(lambda: slurm.jobs() != [], 60)
    time.sleep(2)
    if victim == "controller":
        running.kill()
    else:
        lab.fleet.root(NODE, "pkill -KILL -f '[p]ayload/within.py .* --user trainer'").ok()
    wait_until(lambda: slurm.jobs() == [] and left(lab.fleet) == "", 20)
    out, err = running.communicate(timeout=120)
    if victim != "controller":
        assert running.returncode == 4, f"{out}\n{err}"


def test_an_ordinary_user_proves_it_through_slurm_alone(
    lab: Lab, slurm: Slurm, tmp_path: Path
) -> None:
    plain = {"privileged": False, "prefix": "/home/ops/gpufleet", "torch": "none"}
    none = {"vendor_repository": None, "vendor_key_fingerprint": None}
    mine = Lab(lab.fleet, tmp_path, {NODE: {**plain, **none}})
    asked = ("--env", "/opt/gpufleet/env", "--check", "train.ended")
    direct, of_direct = verified(mine, *asked)
    through, of_job = verified(mine, *asked, "--via", "slurm")
    assert direct.status == 4, status(direct)
    assert "only root sees" in of_direct.checks[0].findings[0].found
    assert through.status == 0, status(through)
    assert of_job.checks[0].verdict == "pass"


def test_who_is_out_of_service_is_expected_absent(lab: Lab, slurm: Slurm, tmp_path: Path) -> None:
    both = Lab(lab.fleet, tmp_path, {NODE: {"torch": "none"}, OTHER: {"torch": "none"}})
    with lab.fleet.broken(OTHER, "unreachable"):
        unknown = both.gpufleet("verify", "lab.py")
        slurm.ask(f"scontrol update nodename={OTHER} state=drain reason='new fan'")
        done = both.gpufleet("verify", "lab.py", "--json", "out.json")
    assert unknown.status == 4, status(unknown)
    assert "expected absent" not in unknown.out
    assert done.status == 0, status(done)
    document: dict[str, Any] = json.loads((both.folder / "out.json").read_text())
    assert document["summary"]["expected_absent"] == 1
    excuse = document["hosts"][OTHER]["expected_absent"]
    assert excuse.startswith(f"Slurm (asked on {NODE}) has it DRAINED: new fan, since ")
    assert document["hosts"][OTHER]["verdict"] == "unreachable"


def wait_until(true: Any, deadline_s: float) -> None:
    end = time.monotonic() + deadline_s
    while not true():
        assert time.monotonic() < end, f"not within {deadline_s} s"
        time.sleep(0.3)
