"""Processes and locks. A lock names its holder through the kernel, so no pid file can be stale."""

from __future__ import annotations

import fcntl
import os
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_FLOCK = "hhqqi4x"  # struct flock of fcntl(2): type, whence, start, length, pid

ISOLATE = (
    *("setpriv", "--pdeathsig", "KILL", "unshare", "--mount", "--propagation", "private"),
    *("--pid", "--fork", "--kill-child=KILL", "--mount-proc"),
)


class SimError(Exception):
    """Something the user of the simulated fleet must know; printed without a traceback."""


class WrongUseError(SimError):
    """A wrong argument: nothing was done, exit code 2."""


def run(
    *argv: str, text: str | None = None, check: bool = True, timeout: float | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a command, `text` on its standard input; raise SimError with its stderr when it fails.

    With `check=False` the caller reads the exit status itself. `timeout` is in seconds.
    """
    try:
        done = subprocess.run(
            argv, input=text if text is not None else "", capture_output=True, text=True,
            timeout=timeout, errors="replace",
        )  # fmt: skip
    except FileNotFoundError as missing:
        raise SimError(
            f"{argv[0]} is not installed; needed packages: `python -m tests.sim packages`"
        ) from missing
    except subprocess.TimeoutExpired as late:
        raise SimError(f"{' '.join(argv)}: no end after {timeout} s") from late
    if check and done.returncode != 0:
        said = (done.stderr or done.stdout).strip()
        raise SimError(f"{' '.join(argv)}: exit {done.returncode}: {said[-2000:]}")
    return done


def isolated(*argv: str) -> None:
    """Run a command in mount and pid namespaces of its own.

    When this process is killed, so is everything that the command started, and its mounts go.
    """
    run(*ISOLATE, *argv)


def say(message: str) -> None:
    """Tell progress on stderr; stdout is kept for results."""
    print(f"sim: {message}", file=sys.stderr, flush=True)


def holder(lock: Path) -> int | None:
    """Return the id of the process that holds this lock now, or None."""
    if not lock.exists():
        return None
    with lock.open("rb") as file:
        asked = struct.pack(_FLOCK, fcntl.F_RDLCK, os.SEEK_SET, 0, 0, 0)
        kind, _, _, _, pid = struct.unpack(_FLOCK, fcntl.fcntl(file, fcntl.F_GETLK, asked))
    return int(pid) if kind != fcntl.F_UNLCK else None


def take(lock: Path) -> int | None:
    """Take a lock for the life of this process; return its descriptor, None if another has it."""
    lock.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return None
    return descriptor


@contextmanager
def exclusive(lock: Path, what: str, deadline_s: float = 900) -> Iterator[None]:
    """Hold a lock for a block; wait for another process up to the deadline, and say who it is."""
    end = time.monotonic() + deadline_s
    told = False
    while (descriptor := take(lock)) is None:
        if not told:
            say(f"waiting for process {holder(lock)}, which is busy with {what}")
            told = True
        if time.monotonic() > end:
            raise SimError(f"{what}: process {holder(lock)} still has {lock}")
        time.sleep(0.2)
    try:
        yield
    finally:
        os.close(descriptor)


def gone(pid: int) -> bool:
    """Tell whether a process has ended (a zombie has: nothing of it runs any more)."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return True
    return stat.rpartition(")")[2].split()[0] in "ZX"


def kill(pid: int, deadline_s: float = 20) -> None:
    """Kill a process and wait until it is gone; raise SimError when it will not go."""
    if pid <= 1:  # 0 and below mean groups, or everything
        raise SimError(f"{pid} is no process of a fleet")
    end = time.monotonic() + deadline_s
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return
    while not gone(pid):
        if time.monotonic() > end:
            raise SimError(f"process {pid} did not end within {deadline_s} s of SIGKILL")
        time.sleep(0.02)
