"""Applies that are killed: a program of its own, because only an unpatched process forks cleanly.

Run as `python -m tests.killed FOLDER SEED`; what it has to say is one JSON object.
"""

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

import pytest

from tests import staged
from tests.localhost import Away
from tests.test_converge import Stage, exchange

KILLS = 3


def apply_until_killed(stage: Stage, after_s: float) -> None:
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


def main(folder: Path, seed: int) -> None:
    moments = random.Random(seed)
    exchange(pytest.MonkeyPatch())
    for layer, step in staged.STEPS.items():
        staged.STEPS[layer] = staged.part(layer, "sleep 0.15", disruptive=step.disruptive)
    stage = Stage(folder)
    (stage.host.root / "shutdown-seconds").write_text("0.4\n")
    first, killed = stage.host.boot_id, 0
    for _ in range(KILLS):
        try:
            apply_until_killed(stage, moments.uniform(0.0, 1.0))
            killed += 1
        except Away:
            break
    while (stage.host.root / "down").exists():
        time.sleep(0.05)
    outcome = stage.apply(reboot_deadline_s=20)
    left = staged.plan_host(
        staged.wanted(), staged.probe(stage.host.connect(), staged.wanted().spec)
    )
    journal = stage.host.journal
    again = stage.apply()
    found = {
        "killed": killed,
        "status": outcome.status,
        "message": outcome.message,
        "left": [step.title for step in left.steps],
        "first_boot": first,
        "reboots": stage.host.reboots,
        "overlapped": Path(f"{stage.part('x').parent}.overlap").exists(),
        "titles": [entry["title"] for entry in map(json.loads, journal)],
        "again": again.status,
        "quiet": stage.host.journal == journal,
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
