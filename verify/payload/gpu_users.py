"""Who uses the GPUs, by open devices and by Slurm: two parts of the report."""

from __future__ import annotations

import os
import re
from typing import Any

from verify.payload import reading
from verify.payload.reading import first, names_in, names_of, text_of, tool

MOST_HOLDERS = 500
GPU_FILE = re.compile(r"/dev/nvidia(\d+)$")
USES_GPU = re.compile(r"/dev/nvidia(\d+|-uvm|-caps/.*)$")
"""What a process that uses a GPU has open. /dev/nvidiactl alone only asks for numbers."""
DAEMONS = {
    "nvidia-persistenced",
    "nv-fabricmanager",
    "nvidia-imex",
    "nv-hostengine",
    "dcgm-exporter",
    "nvidia-topologyd",
    "nvlsm",
    "nvsm",
    "nvidia-powerd",
}
"""The driver's and DCGM's own services, which hold every GPU and use none."""


def holders(reporter: int) -> dict[str, Any]:
    """Processes that have a GPU open; those of the report itself (below `reporter`) are left out.

    Not complete when files of other users could not be looked at and there are GPUs to hold.
    """
    blind = False
    parents: dict[int, int] = {}
    held: dict[int, set[int]] = {}
    owners: dict[int, int] = {}
    index = _index_by_minor()
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        pid = int(entry)
        try:
            parents[pid] = _parent(pid)
            names = os.listdir(f"/proc/{pid}/fd")
        except PermissionError:
            blind = True
            continue
        except OSError:  # it has ended
            continue
        for name in names:
            try:
                target = os.readlink(f"/proc/{pid}/fd/{name}")
            except OSError:
                continue
            if USES_GPU.match(target):
                gpu = GPU_FILE.match(target)
                held.setdefault(pid, set()).update(
                    [index[int(gpu[1])]] if gpu and int(gpu[1]) in index else []
                )
                owners[pid] = os.stat(f"/proc/{pid}").st_uid
    mine = {reporter, os.getpid()}
    for pid in [*parents]:
        line: list[int] = []
        at: int | None = pid
        while at is not None and at not in mine and len(line) < 64:
            line.append(at)
            at = parents.get(at)
        if at in mine:
            mine.update(line)
    users = names_of(set(owners.values()))
    found = [
        {
            "pid": pid,
            "user": users[owners[pid]],
            "command": text_of(f"/proc/{pid}/comm"),
            "gpus": sorted(gpus),
        }
        for pid, gpus in sorted(held.items())
        if pid not in mine and not _is_daemon(pid)
    ]
    # Without a device file there is nothing to hold, whatever could not be looked at.
    blind = blind and any(USES_GPU.match(f"/dev/{name}") for name in os.listdir("/dev"))
    why = "only root sees which processes of other users hold the GPUs" if blind else ""
    return {"complete": not blind, "processes": found[:MOST_HOLDERS], "error": why}


def _is_daemon(pid: int) -> bool:
    """One of the driver's services, by its program's place: a user's process cannot be there."""
    try:
        program = os.readlink(f"/proc/{pid}/exe").removesuffix(" (deleted)")
    except OSError:
        return False
    directory, _, name = program.rpartition("/")
    return name in DAEMONS and bool(re.match(r"/usr/(s?bin|libexec|lib|local/s?bin)", directory))


def _index_by_minor(root: str = "/proc/driver/nvidia/gpus") -> dict[int, int]:
    """Number of a device file -> NVML's index, which follows the slots of the driver's GPUs."""
    found = {}
    for index, slot in enumerate(sorted(names_in(root))):
        minor = re.search(r"Device Minor:\s*(\d+)", text_of(f"{root}/{slot}/information"))
        if minor:
            found[int(minor[1])] = index
    return found


def _parent(pid: int) -> int:
    with open(f"/proc/{pid}/stat", "rb") as stat:
        return int(stat.read().rpartition(b")")[2].split()[1])


def jobs() -> dict[str, Any]:
    """Slurm's jobs of this host that may hold GPUs, also those that are suspended or about to end;
    none where there is no Slurm. `slurm`: it gives this host to jobs; null, it did not say."""
    program, problem = _squeue()
    if not program:
        return {"jobs": [], "slurm": None if problem else False, "error": problem}
    node = os.uname().nodename.partition(".")[0]
    asked = tool(program, "-h", "-w", node, "-t", "R,S,CG", "-o", "%i %u")
    if asked.returncode != 0:
        said = first(asked.stderr, f"exit {asked.returncode}")
        # A login node has Slurm's tools and is no node of the cluster.
        if "invalid node name" in said.lower() and not _slurmd():
            return {"jobs": [], "slurm": False, "error": ""}
        return {"jobs": [], "slurm": None, "error": f"squeue: {said}"}
    pairs = (line.split() for line in asked.stdout.splitlines())
    found = [{"id": words[0][:40], "user": words[1][:64]} for words in pairs if len(words) == 2]
    return {"jobs": found[:MOST_HOLDERS], "slurm": True, "error": ""}


def _squeue() -> tuple[str, str]:
    for place in reading.PATH.split(":"):
        if os.access(f"{place}/squeue", os.X_OK):
            return f"{place}/squeue", ""
    daemon = _slurmd()
    if not daemon:
        return "", ""
    beside = f"{os.path.dirname(os.path.dirname(daemon))}/bin/squeue"
    if os.access(beside, os.X_OK):
        return beside, ""
    return "", "slurmd runs here, but there is no squeue to ask for jobs"


def _slurmd() -> str:
    """The program of a running slurmd, "" when none runs."""
    for entry in os.listdir("/proc"):
        if entry.isdigit() and text_of(f"/proc/{entry}/comm") == "slurmd":
            try:
                return os.readlink(f"/proc/{entry}/exe")
            except OSError:
                return "/usr/sbin/slurmd"
    return ""
