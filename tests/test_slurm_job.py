"""A job from its start to its end, with stand-ins for Slurm's commands: what is asked, and what is
left of it. The real ones are asked in tests/fleet/test_slurm.py."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from verify.payload import slurm_job

pytestmark = pytest.mark.long

SCRIPT = slurm_job.__file__
HOST = os.uname().nodename
NODE = (
    f"NodeName=n7 CPUTot=4 Gres=gpu:2 NodeHostName={HOST.partition('.')[0]} State=%s Partitions=p"
)
TOOLS = {
    "scontrol": 'case "$3" in node) cat "$FOLDER/nodes" ;; partition) '
    "echo PartitionName=p Default=YES ;; *) exit 9 ;; esac",
    # What srun was asked for is the job, until somebody cancels it.
    "srun": 'echo "$*" >"$FOLDER/asked"; echo 47 >"$FOLDER/job"; . "$FOLDER/srun.sh"; '
    'rc=$?; rm -f "$FOLDER/job"; exit $rc',
    "squeue": 'case "$*" in *-w*) echo "7 of alice" ;; *) cat "$FOLDER/job" 2>/dev/null ;; esac; :',
    "scancel": 'echo "$*" >>"$FOLDER/cancelled"; rm -f "$FOLDER/job"',
}
RUNS = 'for last; do :; done; while [ "$1" != sh ]; do shift; done; "$@"'
"""srun, as far as it matters: the command behind its options."""


@pytest.fixture
def slurm(tmp_path: Path) -> Path:
    """A folder with the commands; `nodes` is what scontrol says, `srun.sh` what srun does."""
    for name, text in TOOLS.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / name).chmod(0o755)
    (tmp_path / "nodes").write_text(NODE % "IDLE" + "\n")
    (tmp_path / "srun.sh").write_text(RUNS)
    return tmp_path


def start(slurm: Path, *command: str, seconds: float = 5) -> subprocess.Popen[str]:
    asked = json.dumps({"seconds": seconds, "free_s": 3, "name": "gpufleet-4f1c"})
    return subprocess.Popen(
        [sys.executable, "-I", "-S", "-B", SCRIPT, asked, "--", *command],
        env={"PATH": f"{slurm}:/usr/bin:/bin", "FOLDER": str(slurm), "SLURM_JOB_ID": "1"},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def said(slurm: Path, *command: str, **more: Any) -> dict[str, Any]:
    out, err = start(slurm, *command, **more).communicate(timeout=60)
    (line,) = out.splitlines()
    found: dict[str, Any] = json.loads(line.removeprefix("GPUFLEET "))
    assert found["schema"] == 1, err
    return found


def test_what_a_command_says_inside_the_job_comes_out(slurm: Path) -> None:
    script = 'echo prolog; echo \'GPUFLEET {"rc": 0}\'; [ -z "$SLURM_JOB_ID" ]'
    found = said(slurm, "sh", "-c", script)
    assert (found["state"], found["node"], found["said"]) == ("ran", "n7", {"rc": 0})
    asked = (slurm / "asked").read_text()
    assert "--nodelist=n7 --nodes=1 --ntasks=1 --cpus-per-task=4 --exclusive" in asked
    assert "--gres=gpu:2 --immediate=3" in asked


@pytest.mark.parametrize(
    ("state", "reason"),
    [("IDLE+DRAIN", "fan"), ("DOWN*", "fan"), ("IDLE+POWERED_DOWN", "fan"), ("IDLE*", "fan")],
)
def test_a_node_out_of_service_is_left_alone(slurm: Path, state: str, reason: str) -> None:
    (slurm / "nodes").write_text(NODE % state + f" Reason={reason} [root@2026]\n")
    found = said(slurm, "sh", "-c", "true")
    assert found["state"] == "down"
    assert found["reason"] == f"Slurm has n7 {state}: fan [root@2026]"
    assert not (slurm / "asked").exists()


def test_whoever_is_there_is_named_when_the_node_is_taken(slurm: Path) -> None:
    (slurm / "srun.sh").write_text("echo 'srun: error: Requested nodes are busy' >&2; (exit 1)")
    found = said(slurm, "sh", "-c", "true")
    assert (found["state"], found["reason"]) == ("taken", "n7 was not free in 3 s: job 7 of alice")


@pytest.mark.parametrize(
    ("script", "told"),
    [
        (
            "echo 'srun: error: Invalid account' >&2; (exit 1)",
            "srun (exit 1): srun: error: Invalid",
        ),
        ("true", "it said nothing"),
        ("echo 'GPUFLEET {}'; echo 'GPUFLEET {}'", "srun (exit 0)"),
        ("echo 'GPUFLEET {'", "srun (exit 0)"),
    ],
)
def test_what_slurm_refuses_or_garbles_is_said(slurm: Path, script: str, told: str) -> None:
    (slurm / "srun.sh").write_text(script)
    found = said(slurm, "sh", "-c", "true")
    assert found["state"] == "refused"
    assert told in found["reason"]


def test_without_slurm_or_its_node_there_is_no_job(slurm: Path) -> None:
    (slurm / "nodes").write_text("NodeName=other NodeHostName=other State=IDLE\n")
    assert said(slurm, "sh", "-c", "true")["state"] == "absent"
    (slurm / "scontrol").write_text(
        "#!/bin/sh\necho 'Unable to contact slurm controller' >&2; exit 1\n"
    )
    found = said(slurm, "sh", "-c", "true")
    assert (found["state"], "Unable to contact" in found["reason"]) == ("refused", True)
    (slurm / "scontrol").unlink()
    assert said(slurm, "sh", "-c", "true")["reason"] == "there is no scontrol here"


def test_a_job_that_does_not_end_is_cancelled(slurm: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slurm_job, "START_S", 0.5)
    monkeypatch.setattr(slurm_job, "TERM_S", 0.5)
    monkeypatch.setenv("PATH", f"{slurm}:/usr/bin:/bin")
    monkeypatch.setenv("FOLDER", str(slurm))
    (slurm / "srun.sh").write_text("exec sleep 60")
    asked = {"seconds": 0.5, "free_s": 1, "name": "gpufleet-4f1c"}
    with pytest.raises(slurm_job.Ended, match="did not end in time; its job was cancelled"):
        slurm_job.run(asked, ["sh", "-c", "true"])
    assert (slurm / "cancelled").read_text() == "47\n"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_who_ends_it_ends_the_job(slurm: Path, number: signal.Signals) -> None:
    (slurm / "srun.sh").write_text('echo $$ >"$FOLDER/pid"; exec sleep 60')
    running = start(slurm, "sh", "-c", "true", seconds=50)
    end = time.monotonic() + 20
    while not (slurm / "pid").exists() and time.monotonic() < end:
        time.sleep(0.05)
    running.send_signal(number)
    running.communicate(timeout=20)
    assert (slurm / "cancelled").read_text() == "47\n"
    pid = int((slurm / "pid").read_text())
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


@pytest.mark.parametrize("argument", ["", "{}", '{"seconds": 1, "free_s": 1, "name": "a;b"}'])
def test_wrong_arguments(argument: str) -> None:
    done = subprocess.run(
        [sys.executable, SCRIPT, argument, "--", "true"], capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert "wanted" in done.stderr
