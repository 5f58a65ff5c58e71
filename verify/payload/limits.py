"""What a process is given here, as one line `GPUFLEET {json}`: who it is, and its limits.

Run in the way in which training is started (verify/started.py): as its user, in its environment,
through its scheduler. What there is no limit on, or could not be read, is null.
"""

from __future__ import annotations

import json
import os
import resource
import sys
from pathlib import Path
from typing import Any

MARK = "GPUFLEET "
KINDS = {
    "memlock": resource.RLIMIT_MEMLOCK,
    "nofile": resource.RLIMIT_NOFILE,
    "as": resource.RLIMIT_AS,
    "nproc": resource.RLIMIT_NPROC,
}
CGROUPS = Path("/sys/fs/cgroup")


def report() -> dict[str, Any]:
    """Everything."""
    return {
        "uid": os.geteuid(),
        "user": os.environ.get("USER", ""),
        "home": os.environ.get("HOME", ""),
        "python": sys.executable,
        "limits": {name: soft_limit(kind) for name, kind in KINDS.items()},
        "cpus": len(os.sched_getaffinity(0)),
        "host_cpus": os.cpu_count(),
        "memory": memory(),
        "host_memory": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "gpus": visible(
            os.environ.get("CUDA_VISIBLE_DEVICES"), os.environ.get("SLURM_GPUS_ON_NODE")
        ),
        "job": os.environ.get("SLURM_JOB_ID", ""),
    }


def soft_limit(kind: int) -> int | None:
    """The limit that holds; None for none."""
    soft, _ = resource.getrlimit(kind)
    return None if soft == resource.RLIM_INFINITY else soft


def visible(listed: str | None, of_job: str | None) -> int | None:
    """GPUs that CUDA_VISIBLE_DEVICES leaves, else that Slurm gave the job; None when neither is
    set, and all are there."""
    if listed is None:
        return int(of_job) if of_job and of_job.isdigit() else None
    return len([one for one in listed.split(",") if one.strip() and one != "NoDevFiles"])


def memory(cgroups: Path = CGROUPS, own: str = "/proc/self/cgroup") -> int | None:
    """Bytes of memory that the control groups from here up allow, the least of them."""
    try:
        lines = Path(own).read_text().splitlines()
    except OSError:
        return None
    found = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        root = cgroups / "memory" if controllers else cgroups
        name = "memory.limit_in_bytes" if controllers else "memory.max"
        group = root / path.lstrip("/")
        for place in (group, *group.parents):
            if not place.is_relative_to(root):
                break
            try:
                text = (place / name).read_text().strip()
            except OSError:
                continue
            # The first version of control groups says "none" by a number near 2^63.
            if text.isdigit() and int(text) < 1 << 60:
                found.append(int(text))
    return min(found, default=None)


if __name__ == "__main__":
    print(MARK + json.dumps({"schema": 1, **report()}, separators=(",", ":")), flush=True)
