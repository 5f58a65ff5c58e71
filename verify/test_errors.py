"""What GPUs and the kernel have counted and logged: memory errors, repairs, Xids."""

from __future__ import annotations

from typing import Any

from verify import xids
from verify.applies import Scene
from verify.checks import HOST, Look, check
from verify.gpus import answering, at_slot, is_out_of_reach, part, readable

MOST_REMAPPED = 512
"""Rows remapped for uncorrectable errors from which on spares run out: Azure NHC and OCI take a
GPU out above it (research: verification 1.4; an A100 has 640 spare rows)."""
MOST_RETIRED = 62
"""Retired pages from which on a board before Ampere is taken out; 64 is all that its InfoROM can
note (Azure NHC, research: verification 1.4)."""


@check(
    "gpu.ecc",
    component="gpu",
    needs=("nvml", "ecc"),
    action="reset",
    source="NVML API: total ECC errors, volatile; research: verification 1.4 and 1.14 row 2",
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
        if gpu["sram_threshold_exceeded"] is not None:
            look.at(
                part(gpu),
                "errors in caches beyond the GPU's own threshold",
                found=gpu["sram_threshold_exceeded"],
                expected=False,
                action="service",
            )


def _by_design(gpu: dict[str, Any]) -> str:
    return "MIG is on: NVML counts per slice" if gpu["mig"] else "NVML does not count them here"


@check(
    "gpu.remap-pending",
    component="gpu",
    needs=("nvml", "remap"),
    action="reset",
    source="docs.nvidia.com, GPU Memory Error Management: Row Remapping; research 1.4",
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
    source="docs.nvidia.com, GPU Memory Error Management: RMA policy; research 1.4, 1.14 1 and 11",
    fault="nvml:5:remap_failed=1",
)
def test_remap_failed(scene: Scene, gpus: list[dict[str, Any]], look: Look) -> None:
    """Every bad row of a GPU's memory could be remapped, and there are spare ones."""
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
            expected=f"at most {MOST_REMAPPED}",
            held=used <= MOST_REMAPPED,
        )


@check(
    "gpu.retired-pages",
    component="gpu",
    needs=("nvml", "retired"),
    action="reset",
    source="docs.nvidia.com, Dynamic Page Retirement; research: verification 1.4",
    fault="nvml:1:retired_pending=1",
)
def test_retired_pages(scene: Scene, gpus: list[dict[str, Any]], look: Look) -> None:
    """No page of a GPU's memory waits to be retired, and few have been (before Ampere)."""
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
            expected=f"fewer than {MOST_RETIRED}",
            held=pages < MOST_RETIRED,
            action="service",
        )


@check(
    "gpu.xid",
    component="gpu",
    needs=("gpus",),
    source="verify/data/xids.json; kernel log since boot (peers: until logrotate, research 4 #12)",
    fault="xid:7:48",
)
def test_xid(scene: Scene, look: Look) -> None:
    """The kernel log holds no Xid of the hardware since boot; an application's own are no fault."""
    log = scene.report["log"]
    if not log["readable"]:
        look.unknown(HOST, f"Xids in {log['source']}", why=log["error"] or "it cannot be read")
        return
    kinds: dict[tuple[str, int], list[dict[str, Any]]] = {}
    for event in log["xids"]:
        kinds.setdefault((event["slot"], event["code"]), []).append(event)
    look.at(HOST, f"kernel log ({log['source']})", found="read", expected="read")
    for (slot, code), events in sorted(kinds.items()):
        row = xids.row(code)
        first, last = events[0], events[-1]
        times = f"once, at {first['time']}"
        if len(events) > 1:
            times = f"{len(events)} times, {first['time']} to {last['time']}"
        off_the_bus = code in FALLEN and is_out_of_reach(scene, slot)
        look.at(
            at_slot(slot, scene),
            f"Xid {code}: {row['meaning']}",
            found=times,
            expected="never since boot",
            held=row["class"] in ("application", "information"),
            verdict=severity(row),
            action=row["action"],
            evidence=[first["line"], last["line"]][: len(events)],
            because="gpu.answers" if off_the_bus else "",
        )


def severity(row: dict[str, str]) -> str:
    """fail for what takes a GPU out of use; degraded for what peers only watch, and the unknown."""
    serious = row["class"] == "hardware" and row["action"] != "keep"
    return "fail" if serious else "degraded"


FALLEN = (79, 154)
"""Xids that a GPU which is off the bus leaves behind: the fall, and the driver's own advice."""
