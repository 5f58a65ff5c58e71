"""What jobs have left on GPUs: memory without a process, processes without a job."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from verify.applies import Scene
from verify.checks import HOST, Look, check
from verify.gpus import answering, part, told


@check(
    "gpu.leaked",
    component="gpu",
    verdict="degraded",
    needs=("nvml", "memory"),
    action="reset",
    source="NVML API: memory info version 2, which tells the driver's own reserve apart; "
    "facebookresearch/gcm (2025-12): 15 MiB",
    fault="nvml:1:memory_used_mib=2048",
)
def test_leaked(
    scene: Scene,
    gpus: list[dict[str, Any]],
    threshold: Callable[[str], float],
    look: Look,
) -> None:
    """No memory of a GPU is in use without a process, no process is on one without Slurm's job."""
    most = threshold("gpu.leaked-mib")
    held = scene.report["holders"]["processes"]
    for gpu in answering(gpus, scene, look):
        if gpu["mig"]:
            if not (scene.expected or {}).get("mig"):
                why = "MIG is on: NVML counts memory per slice"
                look.unknown(part(gpu), "memory in use", why=why, because="gpu.mig")
            continue
        used = told(gpu, "memory.used_mib", "memory in use", look)
        if used is None:
            continue
        users = len(gpu["processes"]) + sum(gpu["index"] in one["gpus"] for one in held)
        look.at(
            part(gpu),
            "memory in use while no process is on it",
            found=f"{used} MiB" if not users else f"none: {users} processes are on it",
            expected=f"at most {most:g} MiB",
            held=bool(users) or used <= most,
            verdict="degraded",
            evidence=(
                f"besides, the driver keeps {gpu['memory']['reserved_mib']} MiB for itself",
                f"fuser -v /dev/nvidia{gpu['index']}; nvidia-smi --gpu-reset -i {gpu['index']}",
            ),
        )
    _jobless(scene, look)


def _jobless(scene: Scene, look: Look) -> None:
    holders = scene.report["holders"]
    if holders["slurm"] is None and holders["error"]:
        look.unknown(HOST, "processes without a job", why=holders["error"])
    if not holders["slurm"]:
        return  # whoever uses this host's GPUs may: no scheduler gives them out
    processes = {one["pid"]: one for one in holders["processes"]}
    for gpu in scene.report["nvml"]["gpus"]:
        mine = [pid for pid, one in processes.items() if gpu["index"] in one["gpus"]]
        mine += [one["pid"] for one in gpu["processes"] or [] if one["pid"] not in processes]
        jobless = [] if holders["jobs"] else sorted(set(mine))
        look.at(
            part(gpu),
            "processes although Slurm has no job here",
            found=[_named(pid, processes.get(pid)) for pid in jobless],
            expected=[],
            verdict="degraded",
            action="drain",
            evidence=[f"ps -o user,lstart,cmd -p {pid}" for pid in jobless[:4]],
        )


def _named(pid: int, process: dict[str, Any] | None) -> str:
    if process is None:
        return f"pid {pid}"
    return f"{process['command']} (pid {pid}) of {process['user']}"
