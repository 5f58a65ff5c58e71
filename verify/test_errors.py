"""What GPUs have counted of their memories: errors, and repairs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from verify.applies import Scene
from verify.checks import Look, check
from verify.gpus import answering, part, readable


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
    for gpu in answering(gpus, scene, look):
        if not readable(gpu, "ecc", "error correction", look):
            continue
        ecc = gpu["ecc"]
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
    for gpu in answering(gpus, scene, look):
        if not readable(gpu, "sram", "errors in caches", look):
            continue
        sram = gpu["sram"]
        look.at(
            part(gpu),
            "errors in caches beyond the GPU's own threshold",
            found=sram["threshold_exceeded"],
            expected=False,
        )
        look.at(
            part(gpu),
            "uncorrectable errors in caches over the GPU's life",
            found=sram["uncorrected_ever"],
            expected=f"at most {most:g}",
            held=sram["uncorrected_ever"] <= most,
        )


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
    for gpu in answering(gpus, scene, look):
        if readable(gpu, "remap", "rows waiting to be remapped", look):
            look.at(
                part(gpu),
                "rows waiting to be remapped",
                found="some" if gpu["remap"]["pending"] else "none",
                expected="none",
            )


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
    for gpu in answering(gpus, scene, look):
        if not readable(gpu, "remap", "rows that could not be remapped", look):
            continue
        look.at(
            part(gpu),
            "rows that could not be remapped",
            found="some" if gpu["remap"]["failed"] else "none",
            expected="none",
        )
        used = gpu["remap"]["uncorrected"]
        look.at(
            part(gpu),
            "rows remapped for uncorrectable errors",
            found=used,
            expected=f"at most {most:g}",
            held=used <= most,
        )


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
    for gpu in answering(gpus, scene, look):
        if not readable(gpu, "retired", "retired pages", look):
            continue
        retired = gpu["retired"]
        look.at(
            part(gpu),
            "pages waiting to be retired",
            found="some" if retired["pending"] else "none",
            expected="none",
        )
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
