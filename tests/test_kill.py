"""kill -9 of the controller at random moments: the next run converges and repeats no reboot."""

import json
import os
import random
import signal
import time
from pathlib import Path

import pytest

from deploy.outcome import Outcome
from tests import staged
from tests.localhost import Away
from tests.test_converge import ALL, Stage, stage  # noqa: F401 - a fixture

KILLS = 3


def apply_until_killed(stage: Stage, after_s: float) -> None:  # noqa: F811
    """A controller in a process of its own, killed with signal 9 unless it ended before."""
    child = os.fork()
    if child == 0:
        try:
            stage.apply(reboot_deadline_s=20)
        finally:
            os._exit(0)
    time.sleep(after_s)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)


def apply_when_up(stage: Stage) -> Outcome:  # noqa: F811
    for _ in range(200):
        try:
            return stage.apply(reboot_deadline_s=20)
        except Away:
            time.sleep(0.05)
    raise AssertionError("the host stays away")


@pytest.mark.parametrize("seed", range(5))
def test_the_run_after_a_kill_converges(stage: Stage, seed: int) -> None:  # noqa: F811
    moments = random.Random(seed)
    for layer, step in staged.STEPS.items():
        slow = staged.part(layer, "sleep 0.15", disruptive=step.disruptive)
        staged.STEPS[layer] = slow
    (stage.host.root / "shutdown-seconds").write_text("0.4\n")
    first = stage.host.boot_id
    killed = 0
    for _ in range(KILLS):
        try:
            apply_until_killed(stage, moments.uniform(0.0, 1.0))
            killed += 1
        except Away:
            break
    assert killed
    outcome = apply_when_up(stage)
    assert outcome.status in {"converged", "unchanged"}, outcome.message
    assert (
        staged.plan_host(
            staged.wanted(), staged.probe(stage.host.connect(), staged.wanted().spec)
        ).steps
        == ()
    )
    assert stage.host.reboots == [first], "exactly one reboot, asked at the first boot"
    assert not Path(f"{stage.part('x').parent}.overlap").exists(), "no step ran beside another"
    titles = [entry["title"] for entry in map(json.loads, stage.host.journal)]
    assert set(ALL) <= set(titles)
    journal = stage.host.journal
    assert stage.apply().status == "unchanged"
    assert stage.host.journal == journal
