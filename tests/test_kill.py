"""kill -9 of the controller at random moments: the next run converges and repeats no reboot."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.test_converge import ALL

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize("seed", range(5))
def test_the_run_after_a_kill_converges(tmp_path: Path, seed: int) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.killed", str(tmp_path), str(seed)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["killed"]
    assert found["status"] in {"converged", "unchanged"}, found["message"]
    assert found["left"] == []
    assert found["reboots"] == [found["first_boot"]], "one reboot, asked at the first boot"
    assert not found["overlapped"], "no step ran beside another"
    assert set(ALL) <= set(found["titles"])
    assert (found["again"], found["quiet"]) == ("unchanged", True)
