"""Ranks of a training run: where each is, what it leaves when it cannot say it, and who failed.

Beside train_ddp.py and train_nodes.py, which are run with it: a launcher that must not load torch
watches by this, and ranks write by it. Standard library only; Python 3.10 must do.

Each rank writes down where it is before each step. One that is stuck is asked before it is killed:
SIGUSR1 makes Python write every thread's stack (faulthandler, which needs no lock of Python's), and
SIGTERM wakes a thread of its own that keeps the collective and its number as torch counts them.
"""

from __future__ import annotations

import faulthandler
import json
import math
import os
import re
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

GRACE = 2.0
"""Seconds that the others get to say what they saw, once a rank has failed."""
KILL_S = 0.7
"""Seconds that SIGKILL may take before a process counts as one that cannot be killed."""
STACK_S = 0.1
"""Seconds that a stack takes to be written: no lock is needed for it."""
LAST_WORD_S = 0.6
"""Seconds in which a rank that was told to stop says which collective it is in."""
STOPPED = 4
"""Exit status of a rank that was told to stop, or was still at it at its limit."""
MOST_TEXT = 1500
MOST_FRAMES = 6
MOST_STACK = 60_000
TRACES = ("_dump_fr_trace_json", "_dump_nccl_trace_json")
"""torch's flight recorder, as its versions name it: the first for any backend (seen in 2.13 with
gloo), the second in builds with NCCL."""
RECORDER = {"TORCH_FR_BUFFER_SIZE": "200", "TORCH_NCCL_TRACE_BUFFER_SIZE": "200"}
"""What turns the flight recorder on, by its newer and its older name: entries that it keeps
(docs.pytorch.org, torch_nccl_environment_variables; pytorch/torchtitan#1748 has both)."""

Record = dict[str, Any]


def perturbations(text: str) -> list[tuple[str, str, str]]:
    """Kind, rank and stage ("" for the usual one) of each fault that tests want."""
    parts = [f"{one}::".split(":") for one in text.split(",") if one]
    return [(kind, rank, ":".join(more).rstrip(":")) for kind, rank, *more in parts]


# ---------------------------------------------------------------- the launcher


class StopAskedError(Exception):
    """SIGTERM came: make the document of what there is."""


def stop(number: int, frame: object) -> None:
    raise StopAskedError


def watch(
    ranks: list[subprocess.Popen[bytes]],
    folder: Path,
    until: float,
    patience: float,
    stages: Sequence[str],
) -> None:
    """Wait until all are done; or one failed and the others had their say; or nothing moves."""
    places: list[Record] = []
    moved, failed, shown = time.monotonic(), math.inf, ""
    while True:
        codes = [process.poll() for process in ranks]
        now = time.monotonic()
        here = [read_place(folder, rank) for rank in range(len(ranks))]
        if here != places:
            places, moved = here, now
            stage = min((place["stage"] for place in places), key=stages.index)
            if stage != shown:
                say(f"stage: {stage}")
                shown = stage
        if None not in codes or now > until or now > failed + GRACE:
            return
        if failed == math.inf and any(codes):
            failed = now
        # Before they have met, slow disks may keep one reading torch for long: only `until` counts.
        met = all(stages.index(place["stage"]) > stages.index("rendezvous") for place in places)
        if met and now > moved + patience + 5:
            say(f"no rank has moved for {now - moved:.0f} s")
            return
        time.sleep(0.05)


def ask_where(pids: list[int]) -> None:
    """Have ranks that still run write down their stacks, and the collective that they are in."""
    for number, seconds in ((signal.SIGUSR1, STACK_S), (signal.SIGTERM, LAST_WORD_S)):
        for pid in pids:
            try:
                os.kill(pid, number)
            except OSError:
                continue
        until = time.monotonic() + seconds
        while any(alive(pid) for pid in pids) and time.monotonic() < until:
            time.sleep(0.01)


def end(ranks: list[subprocess.Popen[bytes]]) -> None:
    """Kill what still runs, once it has said where; what does not even take that is left behind."""
    ask_where([process.pid for process in ranks if process.poll() is None])
    for process in ranks:
        if process.poll() is None:
            process.kill()
    until = time.monotonic() + KILL_S
    while any(process.poll() is None for process in ranks) and time.monotonic() < until:
        time.sleep(0.01)


def say(text: str) -> None:
    """Write a line for people."""
    print(text, file=sys.stderr, flush=True)


def tail(path: Path) -> str:
    """The end of a file, as text."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - MOST_TEXT))
            text = file.read(MOST_TEXT).decode(errors="replace")
    except OSError:
        return ""
    # What a newer torch says of the older name that we give the flight recorder's size as well.
    return "".join(line for line in text.splitlines(True) if "TORCH_FR_BUFFER_SIZE" not in line)


def alive(pid: int) -> bool:
    """Whether a process runs; one that is dead and not yet waited for does not."""
    try:
        after_name = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2]
    except OSError:
        return False
    return after_name.split()[0] not in "ZX"


# ---------------------------------------------------------------- what ranks leave, and who failed


def read_place(folder: Path, rank: int) -> Record:
    """Where a rank says it is: steps begun, `calls` for the other ranks among them, stage, what;
    `inside` a collective or by itself."""
    try:
        line = (folder / f"rank-{rank}.at").read_text().strip()
        steps, calls, where, stage, what = line.split(" ", 4)
        inside = where == "in"
        place = {"steps": int(steps), "calls": int(calls), "inside": inside}
    except (OSError, ValueError):
        nowhere = {"steps": 0, "calls": 0, "inside": False}
        return nowhere | {"stage": "start", "at": "starting Python"}
    return place | {"stage": stage, "at": what}


def read_record(folder: Path, rank: int) -> Record:
    """What a rank has left of its measurements, with where it is."""
    empty: Record = {
        "rank": rank,
        "pid": 0,
        "device": None,
        "error": "",
        "others": False,
        "ended": False,
    }
    empty |= {"collective": "", "sequence": None, "stack": []}
    try:
        left: Record = json.loads((folder / f"rank-{rank}.json").read_text())
    except (OSError, ValueError):
        left = {}
    found = empty | left | read_place(folder, rank)
    if not found["ended"] and not found["stack"]:
        found["stack"] = read_stack(folder, rank)
    return found


def read_stack(folder: Path, rank: int) -> list[str]:
    """Where a rank's main thread was when it was asked: the innermost frame first."""
    try:
        text = (folder / f"rank-{rank}.stack").read_text(errors="replace")[-MOST_STACK:]
    except OSError:
        return []
    # faulthandler begins with the newest thread: the last one is the main thread.
    main = re.split(r"^(?:Current t|T)hread .*$", text, flags=re.MULTILINE)[-1]
    frames = re.findall(r'^  File "([^"\n]*)", line (\d+) in (.*)$', main, re.MULTILINE)
    return [_frame(*one) for one in frames[:MOST_FRAMES]]


def _frame(file: str, line: object, function: str) -> str:
    return f"{file.rpartition('/')[2]}:{line} {function}"[:200]


def name_states(records: list[Record]) -> None:
    """Set each rank's state: ended, died, raised, hung; or lost, when another's failure took it.

    A rank that stops leaves the others waiting inside a collective, and how they end (an error of
    the connection, NCCL's abort, our kill) says nothing about them. So the cause is looked for, in
    this order: who ended by itself outside a collective or with an error of its own; who died
    inside one; who is behind the others; else nobody is told apart and all are named.
    """
    for record in records:
        if record["ended"]:
            record["state"] = "ended"
        elif record["error"]:
            record["state"] = "raised"
        else:
            record["state"] = "died" if record["gone"] else "hung"
    left = [record for record in records if record["state"] != "ended"]
    own = [
        record
        for record in left
        if (record["state"] == "raised" and not record["others"])
        or (record["state"] == "died" and not record["inside"])
    ]
    # NCCL's watchdog aborts a process (SIGABRT) that waited in vain for another.
    died = [one for one in left if one["state"] == "died" and one["code"] != -signal.SIGABRT]
    apart = [one for one in left if one["state"] == "hung" and not one["inside"]]
    least = min((one["steps"] for one in left), default=0)
    behind = [one for one in left if one["steps"] == least]
    causes = own or died or apart or behind
    for record in left:
        if not any(record is cause for cause in causes):
            record["state"] = "lost"


# ---------------------------------------------------------------- one rank


class Trail:
    """Where this rank is and what it has measured, written down for when it cannot say it."""

    def __init__(self, folder: Path, rank: int, perturb: str, slot: int | None = None) -> None:
        """`slot`: the rank's number on this host, where that is another."""
        self.folder, self.rank = folder, rank
        self.slot = rank if slot is None else slot
        self.steps = self.in_stage = self.calls = 0
        self.stage, self.began = "start", time.monotonic()
        self.record: Record = {"rank": rank, "pid": os.getpid(), "stages": {}, "ended": False}
        self.faults = [
            (kind, stage) for kind, who, stage in perturbations(perturb) if int(who) == self.slot
        ]
        self._stack = (folder / f"rank-{self.slot}.stack").open("w")
        faulthandler.register(signal.SIGUSR1, file=self._stack, all_threads=True)
        self.file = os.open(folder / f"rank-{self.slot}.at", os.O_CREAT | os.O_WRONLY, 0o600)
        self.save()
        self.at("Python started")

    def at(self, what: str, *, inside: bool = False) -> None:
        """Say what comes next; `inside`: it needs the other ranks."""
        self.in_stage += 1
        if self.in_stage == 2:
            self._fail_on_purpose()
        if inside:
            while ("stall", str(self.calls + 1)) in self.faults:
                time.sleep(1)
            self.calls += 1
        self.steps += 1
        line = f"{self.steps} {self.calls} {'in' if inside else 'out'} {self.stage} {what}"
        os.pwrite(self.file, line.encode()[:199].ljust(199) + b"\n", 0)

    def enter(self, stage: str) -> None:
        """Begin a stage."""
        now = time.monotonic()
        self.record["stages"][self.stage] = round(now - self.began, 3)
        self.stage, self.began, self.in_stage = stage, now, 0
        self.save()
        self.at("begins")

    def save(self) -> None:
        """Keep what was measured so far."""
        whole = self.folder / f"rank-{self.slot}.json"
        part = whole.with_suffix(".part")
        part.write_text(json.dumps(self.record))
        part.replace(whole)

    def stuck(self) -> None:
        """Keep which collective this rank is in, or was in last, and where: torchrun may have told
        it to stop before anybody asked."""
        if os.fstat(self._stack.fileno()).st_size == 0:
            faulthandler.dump_traceback(self._stack, all_threads=True)
        self.record |= last_collective()
        self.save()

    def wrong(self, kind: str, default: str = "") -> bool:
        """Whether a test wants this rank to do this wrong in this stage."""
        return any(
            kind == one and self.stage == (stage or default or self.stage)
            for one, stage in self.faults
        )

    def _fail_on_purpose(self) -> None:
        if self.wrong("die", "collectives"):
            os.kill(os.getpid(), signal.SIGKILL)
        if self.wrong("raise", "collectives"):
            raise ValueError("perturbed: this rank was told to raise")
        while self.wrong("hang", "collectives"):
            time.sleep(1)


def last_collective() -> Record:
    """Name and number of the collective that this process waits in, else of its last one, by what
    torch itself keeps; {} where it keeps nothing or is not loaded."""
    modules = ("torch._C._distributed_c10d", "torch.distributed.distributed_c10d")
    bindings, group = (sys.modules.get(name) for name in modules)
    for name in TRACES:
        try:
            entries = json.loads(getattr(bindings, name)())["entries"]
            waits = [one for one in entries if not one["retired"] and one["state"] != "completed"]
            one = (waits or entries[-1:])[0]
            return {"collective": str(one["profiling_name"]), "sequence": one["collective_seq_id"]}
        except Exception:  # another version's form, no such build, nothing recorded
            continue
    try:
        own = group._get_default_group()  # type: ignore[union-attr]
        return {"collective": "", "sequence": int(own._get_sequence_number_for_group())}
    except Exception:  # no process group yet
        return {}


def keep_time(trail: Trail, seconds: float, leave: Callable[[], None]) -> None:
    """End this process at its limit or at SIGTERM, whatever it hangs in; `leave` runs before."""

    def wait() -> None:
        signal.sigtimedwait({signal.SIGTERM}, seconds)
        trail.record["stopped"] = True
        trail.stuck()
        leave()
        os._exit(STOPPED)

    threading.Thread(target=wait, daemon=True).start()


def fail(
    trail: Trail,
    leave: Callable[[], None],
    kind: type[BaseException],
    error: BaseException,
    stack: TracebackType | None,
) -> None:
    """What an exception that ends this rank leads to, also one in loading torch."""
    trail.record |= {"error": told(error), "others": of_others(error), "stack": frames(error)}
    trail.stuck()
    traceback.print_exception(kind, error, stack)
    leave()
    # Not through the interpreter's end, where a broken process group may be waited for.
    os._exit(1)


def frames(error: BaseException) -> list[str]:
    """Where an exception was raised: the innermost frame first."""
    found = traceback.extract_tb(error.__traceback__)[::-1]
    return [_frame(one.filename, one.lineno, one.name) for one in found[:MOST_FRAMES]]


def told(error: BaseException) -> str:
    """An exception as bounded text, with the line that raised it."""
    frames = traceback.extract_tb(error.__traceback__)
    at = f" (line {frames[-1].lineno} of {Path(frames[-1].filename).name})" if frames else ""
    return f"{type(error).__name__}: {str(error)[:MOST_TEXT]}{at}"


def of_others(error: BaseException) -> bool:
    """Whether an error says that another rank was lost or late, not that this one failed."""
    if re.search(r"CUDA error|Cuda failure|[Uu]nhandled ?[Cc]uda", str(error)):
        return False  # NCCL reports those of this GPU too
    if any(one.__name__ == "DistError" for one in type(error).__mro__):
        return True
    return bool(re.search(r"[Gg]loo|NCCL|[Tt]imed out|[Cc]onnection (?:closed|reset)", str(error)))
