"""The training proof on a real host: green from apply to verdict, and the rank that did wrong."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.fleet.live import LiveFleet, Result
from tests.fleet.slurm import Slurm
from tests.fleet.test_apply import Lab, status
from verify.results import HostResult
from verify.workloads import WORKLOADS

pytestmark = pytest.mark.fleet

NODE = "l40s-01"
WISHES = {
    "cuda": "none",
    "cudnn": "none",
    "nccl": "none",
    "torch": "2.13.0",
    "torch_build": "cpu",
}
TRAINING = {
    f"train.{name}"
    for name in (
        *("starts", "limits", "ended", "backend"),
        *("collectives", "gradients", "parameters", "loss"),
    )
}


@pytest.fixture(scope="module")
def lab(fleet: LiveFleet, tmp_path_factory: pytest.TempPathFactory) -> Lab:
    """One node, converged, with the CPU build of torch."""
    made = Lab(fleet, tmp_path_factory.mktemp("lab"), {NODE: WISHES})
    done = made.apply()
    assert done.status == 0, status(done)
    return made


def verified(lab: Lab, *more: str) -> tuple[Result, HostResult]:
    """`gpufleet verify --level standard`, and what its run directory has of the node."""
    done = lab.gpufleet("verify", "lab.py", "--level", "standard", *more)
    document = json.loads((lab.runs()[-1] / f"hosts/{NODE}.json").read_text())
    assert document["result"], status(done)
    return done, HostResult.model_validate(document["result"])


def of_training(result: HostResult) -> dict[str, Any]:
    return {one.id: one for one in result.checks if one.id.startswith("train.")}


def test_a_converged_host_trains_as_a_user_without_rights(lab: Lab) -> None:
    done, result = verified(lab)
    assert done.status == 0, status(done)
    checks = of_training(result)
    assert set(checks) == TRAINING
    assert {one.verdict for one in checks.values()} == {"pass"}
    not_asked = {one.id: one.reason for one in result.not_asked}
    assert "CPU build" in not_asked["train.libraries"]
    speeds = {(one.name, one.component.index): one for one in result.measurements}
    assert {index for name, index in speeds if name == "train.transformer"} == {0, 1}
    conditions = speeds["train.transformer", 0].conditions
    assert conditions["backend"] == "gloo"
    assert conditions["user"] == "ops"
    assert all(one.value > 0 for one in speeds.values())
    left = lab.fleet.root(NODE, "ls -d /tmp/gpufleet-* /var/tmp/gpufleet-* 2>/dev/null || :").ok()
    assert left == ""
    assert lab.fleet.root(NODE, "pgrep -f [t]rain_ddp.py || :").ok() == ""


def test_a_rank_that_dies_is_the_one_cause(lab: Lab, fleet: LiveFleet) -> None:
    fleet.fault(NODE, "train:die:1")
    try:
        done, result = verified(lab)
    finally:
        fleet.heal(NODE)
    assert done.status == 1, status(done)
    found = [one for check in of_training(result).values() for one in check.findings]
    (cause,) = [one for one in found if not one.because]
    assert cause.component.kind == "rank"
    assert cause.component.index == 1
    assert "died of signal 9 in stage collectives" in cause.found
    assert "perturbed on purpose: die:1" in cause.evidence
    assert {one.because for one in found if one is not cause} == {"train.ended"}
    assert "died of signal 9" in done.out


def test_a_rank_with_other_parameters_is_found(lab: Lab, fleet: LiveFleet) -> None:
    fleet.fault(NODE, "no-self-name")  # training looks no name up
    fleet.fault(NODE, "train:parameter:0:cnn")
    try:
        done, result = verified(lab, "--check", "train.parameters")
    finally:
        fleet.heal(NODE)
    assert done.status == 1, status(done)
    (check,) = result.checks
    (finding,) = check.findings
    assert finding.component.index == 0
    assert "cnn" in finding.what


def test_training_through_slurm(lab: Lab, fleet: LiveFleet) -> None:
    """A job of a real Slurm, on the node that it is about; more in tests/fleet/test_slurm.py."""
    slurm = Slurm(fleet, {NODE: 2, "cpu-01": 0})
    slurm.install()
    asked = ("--via", "slurm", "--as", "trainer", "--check", "train.starts")
    done, result = verified(lab, *asked, "--check", "train.ended", "--check", "train.limits")
    assert done.status == 0, status(done)
    assert {one.verdict for one in result.checks} == {"pass"}
    (line,) = result.information
    assert line.startswith("training starts as trainer in job 1; 2 of 2 processors")
    speeds = [one for one in result.measurements if one.name == "train.transformer"]
    assert {one.conditions["via"] for one in speeds} == {"slurm"}
    assert slurm.jobs() == []
    slurm.ask(f"scontrol update nodename={NODE} state=drain reason='bad disk'")
    done, result = verified(lab, *asked)
    assert done.status == 4, status(done)
    ((finding,),) = [one.findings for one in result.checks]
    assert f"Slurm has {NODE} IDLE+DRAIN: bad disk" in finding.found
    slurm.ask(f"scontrol update nodename={NODE} state=resume")
    fewer = Slurm(fleet, {NODE: 1})
    fewer.configure()
    done, result = verified(lab, *asked, "--check", "train.limits")
    assert done.status == 1, status(done)
    (finding,) = [one for check in result.checks for one in check.findings]
    assert (finding.what, finding.found, finding.expected) == (
        "GPUs that a training process is given", "1", "2",
    )  # fmt: skip


def worked(lab: Lab, *names: str) -> tuple[Result, HostResult]:
    """`gpufleet verify --workload NAME ...`, and what its run directory has of the node."""
    words = [word for name in names for word in ("--workload", name)]
    done = lab.gpufleet("verify", "lab.py", *words, timeout=2400)
    document = json.loads((lab.runs()[-1] / f"hosts/{NODE}.json").read_text())
    assert document["result"], status(done)
    return done, HostResult.model_validate(document["result"])


def test_workloads_are_green_red_or_not_asked_each_by_itself(lab: Lab, fleet: LiveFleet) -> None:
    with fleet.broken(NODE, "workload:batch-norm:mode", "workload:mlp:labels"):
        done, result = worked(lab, "batch-norm", "checkpoint", "host-copy")
    assert done.status == 1, status(done)
    verdicts = {one.id: one.verdict for one in result.checks}
    assert verdicts == {"workload.batch-norm": "fail", "workload.checkpoint": "pass"}
    (reason,) = [one.reason for one in result.not_asked if one.id == "workload.host-copy"]
    assert "this runs on the CPU" in reason
    (speed,) = [one for one in result.measurements if one.name == "workload.checkpoint"]
    assert (speed.unit, speed.conditions["device"]) == ("steps/s", "cpu")
    left = lab.fleet.root(NODE, "ls -d /tmp/gpufleet-* /var/tmp/gpufleet-* 2>/dev/null || :").ok()
    assert left == ""


@pytest.mark.soak
def test_all_workloads_are_green(lab: Lab) -> None:
    done, result = worked(lab, "all")
    assert done.status == 0, status(done)
    assert {one.verdict for one in result.checks} == {"pass"}
    asked = {one.id for one in result.checks} | {one.id for one in result.not_asked}
    assert {f"workload.{name}" for name in WORKLOADS} <= asked
    gone = {one.id for one in result.not_asked if one.id.startswith("workload.")}
    assert gone == {"workload.host-copy", "workload.data-parallel"}
