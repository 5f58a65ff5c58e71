"""kill -9 of the controller at random moments: the next run converges and repeats no reboot."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.test_converge import ALL

pytestmark = pytest.mark.long

ROOT = Path(__file__).parent.parent


SEEDS = range(3)


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> dict[int, subprocess.CompletedProcess[str]]:
    """All seeds at once: most of the time is waiting for the moment to kill."""
    started = {
        seed: subprocess.Popen(
            [sys.executable, "-m", "tests.killed", str(tmp_path_factory.mktemp("host")), str(seed)],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for seed in SEEDS
    }
    done = {}
    for seed, process in started.items():
        out, err = process.communicate(timeout=120)
        done[seed] = subprocess.CompletedProcess(process.args, process.returncode, out, err)
    return done


@pytest.mark.parametrize("seed", SEEDS)
def test_the_run_after_a_kill_converges(
    ended: dict[int, subprocess.CompletedProcess[str]], seed: int
) -> None:
    done = ended[seed]
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["killed"]
    assert found["status"] in {"converged", "unchanged"}, found["message"]
    assert found["left"] == []
    assert found["reboots"] == [found["first_boot"]], "one reboot, asked at the first boot"
    assert not found["overlapped"], "no step ran beside another"
    assert set(ALL) <= set(found["titles"])
    assert (found["again"], found["quiet"]) == ("unchanged", True)
