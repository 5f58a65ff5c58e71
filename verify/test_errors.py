"""What GPUs have counted of their memories: errors, and repairs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from verify.applies import Scene
from verify.checks import Look, check
from verify.gpus import having, part


def _none(gpu: dict[str, Any], what: str, some: object, look: Look) -> None:
    look.at(part(gpu), what, found="some" if some else "none", expected="none")


def _at_most(gpu: dict[str, Any], what: str, found: int, most: float, look: Look) -> None:
    look.at(part(gpu), what, found=found, expected=f"at most {most:g}", held=found <= most)


@check(
    "gpu.ecc",
    component="gpu",
    needs=("nvml", "ecc"),
    action="reset",
    source="NVML API: total ECC errors, volatile; facebookresearch/gcm allows none",
    fault="nvml:3:ecc_uncorrected=3",
)
def test_ecc(scene: Scene, gpus: list[dict[str, Any]], look: Look) -> None:
    """No GPU has uncorrectable memory errors since its driver was loaded, and ECC is as wished."""
    on = (scene.expected or {}).get("ecc") is not False
    for gpu, ecc in having("ecc", "error correction", gpus, scene, look):
        if not ecc["mode"] or not on:
            look.at(
                part(gpu),
                "error correction",
                found="on" if ecc["mode"] else "off",
                expected="on" if on else "off",
                verdict="degraded",
                action="keep",
                evidence=("nvidia-smi -e sets it, a reset or a boot makes it so",),
            )
        if not ecc["mode"]:
            continue
        if ecc["uncorrected"] is None:
            why = gpu["errors"].get("ecc.uncorrected", _by_design(gpu))
            because = "gpu.mig" if gpu["mig"] else ""
            look.unknown(part(gpu), "uncorrectable errors", why=why, because=because)
        else:
            look.at(part(gpu), "uncorrectable errors", found=ecc["uncorrected"], expected=0)


def _by_design(gpu: dict[str, Any]) -> str:
    return "MIG is on: NVML counts per slice" if gpu["mig"] else "NVML does not count them here"


@check(
    "gpu.sram",
    component="gpu",
    needs=("nvml", "sram"),
    action="service",
    source="NVML API: SRAM ECC error status; stas00/ml-engineering, debug.md: RMA above 4",
    fault="nvml:2:sram_parity=5",
)
def test_sram(
    scene: Scene,
    gpus: list[dict[str, Any]],
    threshold: Callable[[str], float],
    look: Look,
) -> None:
    """No GPU's caches have had more uncorrectable errors than it may have over its life."""
    most = threshold("gpu.sram-uncorrected")
    for gpu, sram in having("sram", "errors in caches", gpus, scene, look):
        look.at(
            part(gpu),
            "errors in caches beyond the GPU's own threshold",
            found=sram["threshold_exceeded"],
            expected=False,
        )
        ever = "uncorrectable errors in caches over the GPU's life"
        _at_most(gpu, ever, sram["uncorrected_ever"], most, look)


@check(
    "gpu.remap-pending",
    component="gpu",
    needs=("nvml", "remap"),
    action="reset",
    source="docs.nvidia.com, GPU Memory Error Management: Row Remapping",
    fault="nvml:4:remap_pending=1",
)
def test_remap_pending(scene: Scene, gpus: list[dict[str, Any]], look: Look) -> None:
    """No row of a GPU's memory waits to be remapped, which a reset of the GPU does."""
    what = "rows waiting to be remapped"
    for gpu, remap in having("remap", what, gpus, scene, look):
        _none(gpu, what, remap["pending"], look)


@check(
    "gpu.remap-failed",
    component="gpu",
    needs=("nvml", "remap"),
    action="service",
    source="docs.nvidia.com, GPU Memory Error Management: RMA policy; gpu.remapped-rows",
    fault="nvml:5:remap_failed=1",
)
def test_remap_failed(
    scene: Scene,
    gpus: list[dict[str, Any]],
    threshold: Callable[[str], float],
    look: Look,
) -> None:
    """Every bad row of a GPU's memory could be remapped, and there are spare ones."""
    most = threshold("gpu.remapped-rows")
    what = "rows that could not be remapped"
    for gpu, remap in having("remap", what, gpus, scene, look):
        _none(gpu, what, remap["failed"], look)
        used = "rows remapped for uncorrectable errors"
        _at_most(gpu, used, remap["uncorrected"], most, look)


@check(
    "gpu.retired-pages",
    component="gpu",
    needs=("nvml", "retired"),
    action="reset",
    source="docs.nvidia.com, Dynamic Page Retirement; Azure/azurehpc-health-checks (2026-05)",
    fault="nvml:1:retired_pending=1",
)
def test_retired_pages(
    scene: Scene,
    gpus: list[dict[str, Any]],
    threshold: Callable[[str], float],
    look: Look,
) -> None:
    """No page of a GPU's memory waits to be retired, and few have been (before Ampere)."""
    too_many = threshold("gpu.retired-pages")
    for gpu, retired in having("retired", "retired pages", gpus, scene, look):
        _none(gpu, "pages waiting to be retired", retired["pending"], look)
        if None in (retired["single_bit"], retired["double_bit"]):
            errors = [text for name, text in gpu["errors"].items() if name.startswith("retired.")]
            why = "; ".join(errors) or "NVML does not count them here"
            look.unknown(part(gpu), "retired pages", why=why)
            continue
        pages = retired["single_bit"] + retired["double_bit"]
        look.at(
            part(gpu),
            "retired pages",
            found=pages,
            expected=f"fewer than {too_many:g}",
            held=pages < too_many,
            action="service",
        )
