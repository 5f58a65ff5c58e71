"""Everything that checks ask of a host, as one line `GPUFLEET {json}`, whatever hangs.

    host_report.py '{"prefix": "/opt/gpufleet", "env": "/opt/gpufleet/envs/ID" or null,
                     "mounts": ["/data"], "front": [], "user": ""}'

`front` are words in front of an environment's Python that is not ours (verify/started.py), `user`
is whom it runs as where this runs as root: such a Python never runs as root.

Every part runs in a process of its own with its own deadline, all at once, and what does not end
is left behind (within.py): the whole is over after about 23 s. A part that hung or failed is there
with its reason; a value that could not be read is null. Nothing here judges, and nothing puts load
on a GPU or opens a CUDA context.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

BUNDLE = Path(__file__).resolve().parents[2]
sys.path[:] = [str(BUNDLE), *(p for p in sys.path if p != str(Path(__file__).resolve().parent))]

from verify.payload import (  # noqa: E402
    dcgm_parts,
    gpu_users,
    host_parts,
    iommu_parts,
    kernel_lines,
    kernel_log,
    kernels,
    mount_parts,
    network_parts,
    system_parts,
    within,
)

PAYLOAD = Path(__file__).resolve().parent
NVML_S = 10.0
TORCH_S = 20.0
PIP_S = 20.0
"""Importing torch takes 2 to 3 s of one core, on a host whose cores all work many times that."""
PART_S = 8.0
"""For what reads files of the host and asks its tools."""
UNPRIVILEGED = "nobody"
"""Whom the environment's Python runs as when this runs as root."""
MOST_ERROR = 400
MOST_MOUNTS = 32
"""Each has a process of its own (deploy/fleet/spec.py: no more can be wished for)."""

Document = dict[str, Any]


def started(
    prefix: str,
    env: str | None,
    mounts: list[str],
    user: within.User | None,
    front: Sequence[str],
) -> dict[str, within.Child]:
    """Every part, begun: the slow ones first."""
    children = {"nvml": _payload("gpu_report.py", [sys.executable], NVML_S, None)}
    if env is not None:
        children |= of_environment(env, front, user, 1.0)
    for name, part in parts(prefix, mounts).items():
        children[name] = within.Child(partial(_told, part), PART_S)
    return children


def of_environment(
    env: str, front: Sequence[str], user: within.User | None, share: float
) -> dict[str, within.Child]:
    """What the environment's own Python is asked, with a share of the usual time."""
    python = [*front, f"{env}/bin/python"]
    return {
        "torch": _payload("torch_report.py", python, TORCH_S * share, user, login=True),
        "pip": _payload("pip_check.py", python, PIP_S * share, user),
    }


def parts(prefix: str, mounts: list[str]) -> dict[str, Callable[[], Any]]:
    """What is read here, by name; each returns its value for the report."""
    reporter = os.getpid()
    return {
        "host": host_parts.host,
        "pci": host_parts.pci,
        "modules": kernels.modules,
        "kernel": kernels.kernel,
        "log": kernel_log.log,
        "holders": partial(gpu_users.holders, reporter),
        "jobs": gpu_users.jobs,
        "dcgm": dcgm_parts.dcgm,
        "self_name": host_parts.self_name,
        "network": network_parts.network,
        "clock": system_parts.clock,
        "processors": system_parts.processors,
        "memory_errors": system_parts.memory_errors,
        "stuck": system_parts.stuck,
        "iommu": iommu_parts.iommu,
        "kernel_lines": kernel_lines.lines,
        **{f"mount {path}": partial(mount_parts.mount, path) for path in mounts},
        **{f"disk {path}": partial(host_parts.disk, path) for path in disks(prefix)},
    }


def disks(prefix: str) -> list[str]:
    """The places whose room matters."""
    return ["/", "/tmp", "/var/lib", prefix]


EMPTY: dict[str, Document] = {
    "host": {
        "hostname": os.uname().nodename,
        "boot_id": "",
        "kernel": os.uname().release,
        "user": "",
        "root": os.geteuid() == 0,
        "simulated": None,
        "time": "",
        "virtual": None,
    },
    "pci": {"gpus": [], "nvswitches": [], "error": ""},
    "modules": {"loaded": {}, "flavour": "unknown", "installed": {}, "error": ""},
    "kernel": {
        "running": os.uname().release,
        "next": None,
        "reboot_required": [],
        "error": "",
    },
    "log": {"source": "journalctl -k", "readable": False, "error": "", "xids": [], "sxids": []},
    "holders": {"complete": False, "processes": [], "error": ""},
    "jobs": {"jobs": [], "slurm": None, "error": ""},
    "dcgm": {"installed": None, "running": None, "error": ""},
    "self_name": {"name": os.uname().nodename, "addresses": [], "error": ""},
    "disk": {
        "path": "",
        "total_mib": None,
        "free_mib": None,
        "inodes": None,
        "free_inodes": None,
        "readonly": None,
        "error": "",
    },
    "mount": {"path": "", "mounted": None, "type": "", "source": "", "readonly": None, "error": ""},
    "network": {"ports": [], "peermem": None, "uptime_s": None, "error": ""},
    "clock": {"synchronised": None, "asked": "", "source": "", "error": ""},
    "processors": {"count": None, "memory_mib": None, "governors": {}, "error": ""},
    "memory_errors": {"controllers": [], "error": ""},
    "stuck": {"processes": [], "error": ""},
    "iommu": {"gpus": [], "error": ""},
    "kernel_lines": {
        "readable": False,
        "errors": [],
        "hardware": [],
        "hung": [],
        "cut": False,
        "error": "",
    },
    "nvml": {
        "state": "failed",
        "seconds": 0.0,
        "stage": "",
        "error": "",
        "driver": None,
        "cuda": None,
        "count": None,
        "gpus": [],
    },
    "torch": {
        "state": "failed",
        "stage": "",
        "error": "",
        "python": None,
        "executable": "",
        "version": None,
        "cuda": None,
        "cudnn": None,
        "nccl": None,
        "arch_list": None,
        "available": None,
        "count": None,
        "devices": [],
        "mapped": {},
        "in_front": {},
        "wheels": {},
        "visible": None,
        "user": "",
    },
    "pip": {"state": "failed", "problems": [], "error": ""},
}
"""Each part when nothing could be read of it."""
READ = ("host", "pci", "modules", "kernel", "log", "holders", "self_name", "network", "clock",
        "processors", "memory_errors", "stuck", "iommu", "kernel_lines", "dcgm")  # fmt: skip
"""Parts that stand in the report under their own names."""


def report(
    prefix: str, env: str | None, mounts: list[str], front: Sequence[str] = (), name: str = ""
) -> Document:
    """The whole report. Takes at most the longest deadline and what within.py needs to kill."""
    user = None
    trouble = ""
    try:
        if env is not None and os.geteuid() == 0:
            user = within.user_of(name or UNPRIVILEGED)
            user = within.in_session(user) if name not in ("", UNPRIVILEGED) else user
    except within.Refused as reason:
        env, trouble = None, str(reason)
    begun = time.monotonic()
    children = started(prefix, env, mounts, user, front)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: _give_up(children, user))
    try:
        within.wait(children.values())
        if env is not None and not front and user is not None and _kept_out(children["torch"]):
            # A private environment of ours: its owner may use it, and that is root here.
            children |= of_environment(env, [], None, 0.5)
            within.wait(children.values())
    finally:
        within.remove(user)
    found: Document = {"schema": 1}
    for name in READ:
        found[name] = of_part(name, children[name])
    jobs = of_part("jobs", children["jobs"])
    found["holders"] = with_jobs(found["holders"], jobs)
    found["disks"] = [
        {**of_part("disk", children[f"disk {path}"]), "path": path} for path in disks(prefix)
    ]
    found["mounts"] = [
        {**of_part("mount", child := children[f"mount {path}"]), "path": path, "hung": child.hung}
        for path in mounts
    ]
    found["nvml"] = of_payload("nvml", children["nvml"])
    for name in ("torch", "pip"):
        found[name] = (
            of_payload(name, children[name])
            if name in children
            else {**EMPTY[name], "state": "failed" if trouble else "absent", "error": trouble}
        )
    found["seconds"] = round(time.monotonic() - begun, 3)
    return found


def of_part(name: str, child: within.Child) -> Document:
    """What a part printed; else an empty one with the reason in `error`."""
    problem = _problem(child)
    if not problem:
        try:
            values = json.loads(child.out)
            if isinstance(values, dict):
                return {**EMPTY[name], **values}
        except ValueError:
            pass
        problem = "it printed no report"
    return {**EMPTY[name], "error": problem}


def of_payload(name: str, child: within.Child) -> Document:
    """What a payload reported; else an empty report with state hung or failed, and the reason."""
    empty = {**EMPTY[name], "seconds": child.document()["seconds"]}
    if child.hung:
        # A driver that computes for seconds is stuck as well; Python on a loaded host is not.
        state = "slow" if child.slow and name in ("torch", "pip") else "hung"
        return {**empty, "state": state, "stage": child.stage, "error": _problem(child)}
    lines = [one for one in child.out.decode(errors="replace").splitlines() if one]
    found = [one for one in lines if one.startswith(within.MARK)]
    if len(found) == 1:
        try:
            values = json.loads(found[0][len(within.MARK) :])
            if isinstance(values, dict) and values.pop("schema", None) == 1:
                return {**empty, **values, "stage": "" if child.rc == 0 else child.stage}
        except ValueError:
            pass
    said = _problem(child) or f"it printed {len(found)} reports that could be read"
    return {**empty, "stage": child.stage, "error": said}


def with_jobs(holders: Document, jobs: Document) -> Document:
    """Open devices and allocations as one part: complete only when both are."""
    problems = [text for text in (holders["error"], jobs["error"]) if text]
    return {
        **holders,
        "jobs": jobs["jobs"],
        "slurm": jobs.get("slurm"),
        "complete": bool(holders["complete"]) and not jobs["error"],
        "error": "; ".join(problems),
    }


def _payload(
    name: str, python: list[str], seconds: float, user: within.User | None, login: bool = False
) -> within.Child:
    """A payload as a child. Python's own -I, except where a login's variables are what is asked."""
    words = [*python, *(["-B"] if login else ["-I", "-B"]), str(PAYLOAD / name)]
    return within.Child(within.executes(words, within.environment_of(user), login), seconds, user)


def _told(part: Callable[[], Any]) -> None:
    os.write(1, json.dumps(part()).encode())


def _problem(child: within.Child) -> str:
    """Why a child has no result, "" when it ended well."""
    if child.hung:
        where = f" at: {child.stage}" if child.stage else ""
        left = "; it cannot be killed and was left behind" if child.abandoned else ""
        if child.slow:
            left += f"; it was still working (load {os.getloadavg()[0]:.0f}, {os.cpu_count()} CPUs)"
        return f"no answer after {child.seconds:g} s{where}{left}"
    if child.rc == 0:
        return ""
    said = [line for line in child.err.decode(errors="replace").splitlines() if line.strip()]
    told = [line for line in said if not line.startswith("stage: ")]
    status = "it was stopped" if child.rc is None else f"exit {child.rc}"
    return f"{status}: {' | '.join(told[-3:]) or 'it said nothing'}"[:MOST_ERROR]


def _kept_out(child: within.Child) -> bool:
    """Whether it ended at once because this user may not enter the environment."""
    return child.rc not in (0, None) and b"Permission denied" in child.err


def _give_up(children: dict[str, within.Child], user: within.User | None) -> None:
    """Whoever asked does not wait any more."""
    for child in children.values():
        child.kill()
    within.remove(user)
    os._exit(1)


def main(argv: list[str]) -> int:
    """One report; 2 on wrong arguments."""
    try:
        (text,) = argv
        asked = json.loads(text)
        prefix, env = asked["prefix"], asked["env"]
        front, user = asked.get("front", []), asked.get("user", "")
        if not isinstance(prefix, str) or not prefix.startswith("/"):
            raise ValueError("prefix is an absolute path")
        if env is not None and (not isinstance(env, str) or not env.startswith("/")):
            raise ValueError("env is an absolute path or null")
        if not isinstance(user, str) or not all(isinstance(word, str) for word in front):
            raise ValueError("front are words, and user is a name")
        mounts = asked.get("mounts", [])
        if not isinstance(mounts, list) or not all(
            isinstance(path, str) and path.startswith("/") for path in mounts
        ):
            raise ValueError("mounts are absolute paths")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        sys.stderr.write(
            'host_report.py: wanted {"prefix": PATH, "env": PATH or null, "mounts": [PATH]}: '
            f"{error}\n"
        )
        return 2
    once = list(dict.fromkeys(mounts))[:MOST_MOUNTS]
    print(within.line_of(report(prefix, env, once, front, user)), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
