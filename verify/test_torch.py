"""What the environment's torch would do here: its libraries, its code for each GPU, its devices."""

from __future__ import annotations

import re
from typing import Any

from verify.applies import Scene
from verify.checks import HOST, Component, Look, check
from verify.gpus import answering, part

OF_THE_DRIVER = ("libcuda.so",)
"""Of the watched libraries the one that has to be the system's: the driver brings it."""

OPENS_BY_NAME = ("libcudnn",)
"""Of the watched libraries the one whose parts are opened by name, at the first convolution."""


@check(
    "torch.libraries",
    component="library",
    needs=("torch",),
    source="docs: PyTorch links its wheels' libraries; a system cuDNN in front breaks the first "
    "convolution",
    fault="library-in-front",
)
def test_libraries(scene: Scene, host: Any, look: Look) -> None:
    """The CUDA, cuDNN and NCCL libraries that torch takes are those of its own environment."""
    torch = scene.report["torch"]
    folder = torch["executable"].rpartition("/bin/")[0]
    real = host.run("readlink -f %s", folder).stdout.strip() or folder
    inside = (f"{folder}/", f"{real}/")
    taken = {**torch["mapped"], **torch["in_front"]}
    for name, path in sorted(taken.items()):
        if name.startswith(OF_THE_DRIVER):
            continue
        mapped = torch["mapped"].get(name, "")
        taken_later = name in torch["in_front"] and (not mapped or mapped.startswith(inside))
        look.at(
            Component(kind="library", name=name),
            "file that a search by name finds" if taken_later else "file that torch maps",
            found=path,
            expected=f"one in {folder}",
            held=path.startswith(inside) and name not in torch["in_front"],
            # What torch has mapped by its own path stays so; cuDNN opens its parts by name later.
            verdict="degraded" if taken_later and not name.startswith(OPENS_BY_NAME) else "fail",
            evidence=("LD_LIBRARY_PATH, LD_PRELOAD or the loader's configuration put it in front",),
        )
    if taken:
        return
    if torch["cuda"] is None:
        look.at(HOST, "libraries of CUDA that torch's CPU build maps", found=0, expected=0)
    else:
        look.unknown(HOST, "libraries that torch maps", why="torch has mapped none")


@check(
    "torch.arch-list",
    component="gpu",
    needs=("cuda-build", "nvml"),
    source="CUDA binary compatibility: cubins run on their major version from their minor on, PTX "
    "on anything newer (CUDA C++ programming guide); is_available() stays true "
    "(apache/mahout issue 1320)",
    fault="arch-list",
)
def test_arch_list(scene: Scene, gpus: list[dict[str, Any]], look: Look) -> None:
    """torch has code for every GPU of this host."""
    archs = scene.report["torch"]["arch_list"]
    if not archs:
        look.unknown(HOST, "torch's list of architectures", why="it is empty or could not be read")
        return
    for gpu in answering(gpus, scene, look):
        if gpu["cc"] is None:
            why = gpu["errors"].get("cc", "NVML does not say it")
            look.unknown(part(gpu), "compute capability", why=why)
            continue
        major, minor = gpu["cc"]
        look.at(
            part(gpu),
            "code for its compute capability",
            found=f"sm_{major}{minor}; torch has {' '.join(archs)}",
            expected=f"sm_{major}{minor}, an older sm_{major}x, or PTX of something older",
            held=covers(archs, (major, minor)),
            evidence=("another build of torch: torch_build in the inventory, gpufleet lock",),
        )


def covers(archs: list[str], capability: tuple[int, int]) -> bool:
    """Code for one of `archs` runs on a GPU of this compute capability.

    sm_XY is machine code for X.Y and the later minors of X; compute_XY is PTX, compiled by the
    driver for X.Y and everything newer. A letter behind (sm_90a, sm_100f) binds it closer: `a` to
    X.Y alone, `f` to its family, the later minors of X.
    """
    for arch in archs:
        known = re.fullmatch(r"(sm|compute)_(\d+)(\d)([af]?)", arch)
        if known is None:
            continue
        mine = (int(known[2]), int(known[3]))
        if known[4] == "a":
            fits = mine == capability
        elif known[1] == "sm" or known[4] == "f":
            fits = mine[0] == capability[0] and mine[1] <= capability[1]
        else:
            fits = mine <= capability
        if fits:
            return True
    return False


@check(
    "torch.devices",
    component="gpu",
    needs=("cuda-build", "nvml"),
    source="torch counts what CUDA shows it; 7 of 8 GPUs: NVIDIA/aicr issue 1858",
    fault="fewer-devices",
)
def test_devices(scene: Scene, gpus: list[dict[str, Any]], look: Look) -> None:
    """torch sees every GPU that NVML shows, and no other."""
    torch = scene.report["torch"]
    seen = {device["uuid"] for device in torch["devices"]}
    hidden = f"CUDA_VISIBLE_DEVICES={torch['visible']}" if torch["visible"] is not None else ""
    for gpu in answering(gpus, scene, look):
        look.at(
            part(gpu),
            "GPU among torch's devices",
            found="there" if gpu["uuid"] in seen else "missing",
            expected="there",
            evidence=(hidden,) if hidden else (),
        )
    strangers = seen - {gpu["uuid"] for gpu in gpus}
    look.at(HOST, "devices of torch that NVML does not show", found=strangers, expected=set())
