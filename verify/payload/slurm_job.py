"""Runs a command as a job of Slurm on this very host, and leaves no job behind.

    slurm_job.py '{"seconds": 100, "free_s": 20, "name": "gpufleet-4f1c"}' -- COMMAND...

Prints one line `GPUFLEET {"schema": 1, "state", "node", "reason", "said", "err"}`:

    ran      the command ended inside the job; `said` is the object of its line `GPUFLEET {json}`
    absent   there is no Slurm here, or it has no such node
    down     Slurm has the node out of service: its state and reason
    taken    the node was not free within `free_s`: its state, and the jobs there
    refused  Slurm does not start it: what srun says
    late     it did not end in time, and was cancelled

`name` is this run's alone: whatever bears it is cancelled at the end, however that comes about. If
even this process is killed, srun is told and cancels; at the last, the job has a time limit. Words
and states: srun(1), scontrol(1) and squeue(1) of Slurm 20.02 and later.
"""

from __future__ import annotations

import ctypes
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from typing import Any, NoReturn

MARK = "GPUFLEET "
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/opt/slurm/bin"
TOOL_S = 10.0
"""How long one of Slurm's commands may take; slurmctld answers in milliseconds, or not at all."""
START_S = 20.0
"""Beyond waiting and the command's own seconds: the prolog, srun's start and end."""
TERM_S = 2.0
GONE_S = 5.0
"""How long a cancelled job may take to leave the queue."""
OUT_OF_SERVICE = (
    "DOWN", "DRAIN", "FAIL", "MAINT", "NOT_RESPONDING", "POWER", "REBOOT", "RESERVED", "FUTURE",
    "UNKNOWN", "INVAL",
)  # fmt: skip
"""What a node's state holds when it takes no job (scontrol(1), node states)."""
BUSY = (
    "nodes are busy",
    "Immediate execution impossible",
    "Unable to allocate resources: Requested",
)
MOST_OUT = 8_000_000
MOST_TEXT = 400
_PR_SET_PDEATHSIG = 1


class Ended(Exception):  # noqa: N818 - an answer, not a fault
    """No command was run, or not to its end: the state and the reason."""

    def __init__(self, state: str, reason: str) -> None:
        super().__init__(reason)
        self.state = state


def tool(name: str) -> str:
    """One of Slurm's commands. Raises Ended."""
    path = os.environ.get("PATH", "")
    found = shutil.which(name, path=f"{path}:{PATH}:{_beside_slurmd()}")
    if not found:
        raise Ended("absent", f"there is no {name} here")
    return found


def _beside_slurmd() -> str:
    """The bin/ of the prefix that a running slurmd lies in."""
    for entry in os.listdir("/proc"):
        try:
            with open(f"/proc/{entry}/comm", encoding="utf-8") as name:
                if entry.isdigit() and name.read().strip() == "slurmd":
                    program = os.readlink(f"/proc/{entry}/exe")
                    return f"{os.path.dirname(os.path.dirname(program))}/bin"
        except OSError:
            continue
    return "/usr/bin"


def ask(*words: str) -> str:
    """What one of Slurm's commands prints. Raises Ended when it fails or does not answer."""
    program = tool(words[0])
    try:
        ran = subprocess.run(
            [program, *words[1:]], stdin=subprocess.DEVNULL, capture_output=True, timeout=TOOL_S,
            env=clean(os.environ),
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise Ended("refused", f"{words[0]}: no answer within {TOOL_S:g} s") from None
    if ran.returncode != 0:
        raise Ended("refused", f"{words[0]}: {short(ran.stderr)}")
    return ran.stdout[:MOST_OUT].decode(errors="replace")


def clean(environment: Any) -> dict[str, str]:
    """Without the variables of a job that this may itself be started in: a new job is wanted."""
    ours = ("SLURM_", "SBATCH_", "SALLOC_", "SRUN_")
    return {
        key: value
        for key, value in environment.items()
        if key == "SLURM_CONF" or not key.startswith(ours)
    }


def field(line: str, name: str) -> str:
    """A field of `scontrol --oneliner`, "" when it is not there. The first: a reason comes last,
    and may hold anything."""
    found = re.search(rf"(?:^| ){name}=(\S*)", line)
    return found[1] if found and found[1] != "(null)" else ""


def mine(lines: str, hostname: str) -> str:
    """The line of this host's node. Raises Ended."""
    names = {hostname, hostname.partition(".")[0]}
    for key in ("NodeHostName", "NodeName"):
        for line in lines.splitlines():
            if field(line, key) in names:
                return line
    raise Ended("absent", f"Slurm has no node of the name {hostname}")


def gpus_of(line: str) -> int:
    """GPUs that Slurm hands out of a node, as Gres=gpu:h100:8(S:0-1)."""
    listed = re.findall(r"(?:^|,)gpu(?::[^:,()]+)?:(\d+)", field(line, "Gres"))
    return sum(int(count) for count in listed)


def reason_of(line: str) -> str:
    """Why a node is out of service, with who said so when."""
    found = re.search(r" Reason=(.*?)(?: (?:Comment|Extra)=.*)?$", line)
    return found[1].strip()[:MOST_TEXT] if found and found[1].strip() != "(null)" else "no reason"


def partitions_of(line: str, every: str) -> list[str]:
    """The option that names the node's partitions, where the default one is none of them."""
    own = [name for name in field(line, "Partitions").split(",") if name]
    default = [
        field(one, "PartitionName") for one in every.splitlines() if field(one, "Default") == "YES"
    ]
    return [] if not own or set(default) & set(own) else [f"--partition={','.join(own)}"]


def options(line: str, asked: dict[str, Any]) -> list[str]:
    """srun's options: this node, all of it, at once or not at all, and for no longer than that."""
    cpus = field(line, "CPUEfctv") or field(line, "CPUTot") or "1"
    gpus = gpus_of(line)
    minutes = int((asked["seconds"] + START_S) // 60) + 1
    return [
        f"--nodelist={field(line, 'NodeName')}", "--nodes=1", "--ntasks=1",
        f"--cpus-per-task={cpus}", "--exclusive", "--mem=0", "--mpi=none",
        *([f"--gres=gpu:{gpus}"] if gpus else []),
        f"--immediate={asked['free_s']}", f"--time={minutes}", f"--job-name={asked['name']}",
        "--input=none", "--chdir=/", "--export=ALL", "--quit-on-interrupt",
    ]  # fmt: skip


def jobs_on(node: str) -> str:
    """Who is there, for the reason."""
    try:
        listed = ask("squeue", "-h", "-w", node, "-t", "R,CG", "-o", "%i of %u").splitlines()
    except Ended as why:
        return str(why)
    return ", ".join(f"job {one}" for one in listed[:3]) or "no job that squeue shows"


def cancel(name: str) -> None:
    """Everything of this name is gone, or going, when this returns."""
    end = time.monotonic() + GONE_S
    while time.monotonic() < end:
        try:
            left = ask("squeue", "-h", "-n", name, "-o", "%i").split()
            if not left:
                return
            ask("scancel", *left)
        except Ended:
            return  # no slurmctld: the time limit ends it
        time.sleep(0.2)


def _tied() -> None:
    """In srun's process: who kills us has it cancel its job."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def run(asked: dict[str, Any], command: list[str]) -> dict[str, Any]:
    """The job, from its start to its end. Raises Ended."""
    line = mine(ask("scontrol", "--oneliner", "show", "node"), os.uname().nodename)
    node, state = field(line, "NodeName"), field(line, "State")
    if any(word in state for word in OUT_OF_SERVICE) or state.endswith("*"):
        raise Ended("down", f"Slurm has {node} {state}: {reason_of(line)}")
    partitions = partitions_of(line, ask("scontrol", "--oneliner", "show", "partition"))
    words = [tool("srun"), *partitions, *options(line, asked), *command]
    os.write(2, f"stage: srun on {node}\n".encode())
    started = subprocess.Popen(
        words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env=clean(os.environ), preexec_fn=_tied,
    )  # fmt: skip
    try:
        out, err = started.communicate(timeout=asked["free_s"] + asked["seconds"] + START_S)
    except subprocess.TimeoutExpired:
        raise Ended("late", f"{node}: srun did not end in time; its job was cancelled") from None
    finally:
        cancel(asked["name"])
        _end(started)
    text = out[:MOST_OUT].decode(errors="replace")
    said = short(err)
    answer = line_of(text)
    if answer is not None:
        return {"state": "ran", "node": node, "said": answer, "err": said}
    if any(words in said for words in BUSY):
        raise Ended("taken", f"{node} was not free in {asked['free_s']} s: {jobs_on(node)}")
    raise Ended("refused", f"{node}: srun (exit {started.returncode}): {said}")


def line_of(text: str) -> dict[str, Any] | None:
    """The object of the one line `GPUFLEET {json}`, None when there is none, or several."""
    lines = [one for one in text.splitlines() if one.startswith(MARK)]
    try:
        found = json.loads(lines[0][len(MARK) :]) if len(lines) == 1 else None
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def _end(started: subprocess.Popen[bytes]) -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        if started.poll() is None:
            started.send_signal(number)
            try:
                started.wait(TERM_S)
            except subprocess.TimeoutExpired:
                continue


def short(text: bytes) -> str:
    """The end of what a command said, as one line."""
    lines = [one.strip() for one in text.decode(errors="replace").splitlines() if one.strip()]
    return " | ".join(lines[-4:])[-MOST_TEXT:] or "it said nothing"


def main(argv: list[str]) -> int:
    """One job; 0 when a line was printed, 2 on wrong arguments."""
    try:
        asked = json.loads(argv[0])
        command = argv[argv.index("--") + 1 :]
        if not command or not re.fullmatch(r"[a-z0-9.-]{1,60}", asked["name"]):
            raise ValueError("no command, or a name that is none")
        asked = {key: asked[key] for key in ("seconds", "free_s", "name")}
        if not 0 < asked["seconds"] < 86400 or not 0 < int(asked["free_s"]) < 3600:
            raise ValueError("seconds and free_s are positive, and less than a day and an hour")
    except (ValueError, KeyError, TypeError, IndexError) as error:
        sys.stderr.write(f"slurm_job.py: wanted its question and -- COMMAND: {error}\n")
        return 2

    def stopped(*_: object) -> NoReturn:
        raise SystemExit(1)  # through `finally`: the job is cancelled

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, stopped)
    document: dict[str, Any] = {
        "schema": 1,
        "state": "",
        "node": "",
        "reason": "",
        "said": None,
        "err": "",
    }
    try:
        document |= run(asked, command)
    except Ended as why:
        document |= {"state": why.state, "reason": str(why)}
    print(MARK + json.dumps(document, separators=(",", ":")), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
