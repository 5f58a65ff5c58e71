"""Training can be started as it is asked for, and is given what this host has."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest

from verify.applies import Scene
from verify.checks import HOST, Look, check
from verify.started import CannotStart, Given, given
from verify.training import Unusable

START_S = 20.0
"""How long a process that only tells of itself may take: on a loaded host Python takes seconds."""
NEEDS = ("torch", "idle")

_started: dict[str, Given | CannotStart | Unusable] = {}
"""One start per host and session: it is what the checks below look at."""


@pytest.fixture
def found(
    host: Any, bundle: str, python: str, train: Callable[..., dict[str, Any]]
) -> Given | CannotStart | Unusable:
    """What verify/payload/limits.py says, started as training is; else why it did not."""
    name = host.backend.get_pytest_id()
    if name not in _started:
        try:
            said = train(START_S, python, "-B", f"{bundle}/verify/payload/limits.py")
            _started[name] = given(said)
        except (CannotStart, Unusable) as reason:
            _started[name] = reason
    return _started[name]


@check(
    "train.starts",
    component="training",
    level="standard",
    needs=NEEDS,
    source="ours: health tests never train as root; jobs are started by users and by Slurm",
    fault="session-denied",
)
def test_starts(
    found: Given | CannotStart | Unusable, scene: Scene, look: Look, inform: Callable[[str], None]
) -> None:
    """Training starts as the user, in the environment and through the scheduler asked for."""
    what = f"start of training{' as a job of Slurm' if scene.asked['via'] else ''}"
    if isinstance(found, CannotStart):
        if found.verdict == "fail":
            again = (found.again,) if found.again else ()
            look.at(HOST, what, found=found.found, expected=found.wanted, evidence=again)
        else:
            look.unknown(HOST, what, why=str(found), hung=found.verdict == "hung")
        return
    if isinstance(found, Unusable):
        wanted = "a process that tells of itself"
        look.at(HOST, what, found=str(found), expected=wanted, held=False)
        return
    rights = "root's rights" if found.uid == 0 else "no rights of root"
    look.at(HOST, "rights of the user that trains", found=rights, expected="no rights of root")
    if scene.asked["via"]:
        where = "inside a job" if found.job else "outside any job"
        look.at(HOST, what, found=where, expected="inside a job")
    inform(found.line(scene.asked["env"]))


@check(
    "train.limits",
    component="training",
    level="standard",
    needs=NEEDS,
    source="CUDA C++ programming guide, unified virtual address space: host and devices share one; "
    "Red Hat networking guide 13.5.3: RDMA locks memory (limits.d/rdma.conf); Slurm gres.conf(5)",
    fault="limit:as",
)
def test_limits(
    found: Given | CannotStart | Unusable,
    scene: Scene,
    gpus: list[dict[str, Any]],
    look: Look,
    threshold: Callable[[str], float],
) -> None:
    """Whoever trains is given every GPU, the address space they need, and memory for RDMA."""
    if not isinstance(found, Given):
        look.unknown(HOST, "limits of training", why=str(found), because="train.starts")
        return
    there = [gpu for gpu in gpus if not gpu["lost"]]
    if there:
        look.at(
            HOST,
            "GPUs that a training process is given",
            found=len(there) if found.gpus is None else found.gpus,
            expected=len(there),
            baseline="host",
            evidence=(
                "CUDA_VISIBLE_DEVICES of a login, or Gres and gres.conf of Slurm, name them",
            ),
        )
    needed = found.host_memory + sum((gpu["memory_mib"] or 0) << 20 for gpu in there)
    look.at(
        HOST,
        "address space of a training process",
        found=_mib(found.address_space),
        expected=f"unlimited, or the {_mib(needed)} of this host and its GPUs",
        held=found.address_space is None or found.address_space >= needed,
        baseline="physics",
        evidence=(_LIMITS.format("as"),),
    )
    if (scene.report.get("network") or {}).get("ports"):
        least = threshold("train.memlock-mib")
        look.at(
            HOST,
            "memory that a training process may lock, where there is RDMA",
            found=_mib(found.memlock),
            expected=f"unlimited{_or_less(least)}",
            held=found.memlock is None or found.memlock >> 20 >= least,
            verdict="degraded",  # this host trains alone; with others NCCL cannot register memory
            evidence=(_LIMITS.format("memlock"),),
        )


_LIMITS = "`{}` in /etc/security/limits.d; of jobs PropagateResourceLimits and slurmd's own unit"


def _or_less(least: float) -> str:
    """What the inventory lets do, where it says less than unlimited."""
    return "" if math.isinf(least) else f", or at least {least:g} MiB"


def _mib(size: int | None) -> str:
    return "unlimited" if size is None else f"{size >> 20} MiB"
