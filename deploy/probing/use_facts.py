"""Who uses a host's GPUs, and who holds dpkg's lock, from the probe's lines. Pure."""

import re
from typing import Any

from deploy.facts import GpuUser, SlurmJob
from deploy.interest import DRIVER_DAEMONS


def read_users(lines: list[str], root: bool, unknown: dict[str, str]) -> dict[str, Any]:
    if "self" not in lines:
        raise ValueError("the scan of open files did not find its own")
    users = []
    locks = []
    for line in lines:
        if line in {"self", "devices", "blind"}:
            continue
        what, pid, uid, user, name, exe, unit = line.split("\t")
        if what == "dpkg":
            locks.append(f"{name} (pid {int(pid)})")
        elif not _is_driver_daemon(int(uid), exe, unit):
            users.append(GpuUser(pid=int(pid), user=user or f"uid {uid}", command=name))
    values: dict[str, Any] = {"lock_holder": ", ".join(locks)}
    blind = not root or "blind" in lines
    who = "only root sees" if not root else "this root may not see"
    if blind and "devices" in lines:
        unknown["gpu_users"] = f"{who} which processes hold the GPU devices"
    else:
        values["gpu_users"] = tuple(users)
    if blind:
        unknown["dpkg.lock_holder"] = f"{who} who holds dpkg's lock"
    return values


def _is_driver_daemon(uid: int, exe: str, unit: str) -> bool:
    """One of the driver's own services. A user's process cannot claim it: the program must lie in
    a system directory, or a system account must run it in the service's own unit."""
    directory, _, program = exe.removesuffix(" (deleted)").rpartition("/")
    system = re.fullmatch(r"/usr/(local/)?(s?bin|libexec|lib)(/.*)?|/s?bin", directory)
    if system and program in DRIVER_DAEMONS:
        return True
    return uid < 1000 and unit.removesuffix(".service") in DRIVER_DAEMONS


def read_slurm(lines: list[str], root: bool, unknown: dict[str, str]) -> dict[str, Any]:
    jobs = []
    for line in lines:
        _tag, job, user, state = line.split("\t")
        jobs.append(SlurmJob(job=job, user=user, state=state))
    return {"slurm_jobs": tuple(jobs)}
