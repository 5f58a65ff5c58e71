"""What the kernel log says of GPUs and NVSwitches since boot: Xids and SXids."""

from __future__ import annotations

from typing import Any

from verify import xids
from verify.applies import Scene
from verify.checks import HOST, Component, Look, check
from verify.gpus import at_slot, is_out_of_reach, same_slot

Event = dict[str, Any]
FALLEN = (79, 154)
"""Xids that a GPU which is off the bus leaves behind: the fall, and the driver's own advice."""


def _by_part(events: list[Event]) -> list[tuple[str, int, list[Event]]]:
    """Events by slot and code, each list in the order of time: nothing of one part, or of an
    earlier event, is overwritten by the next."""
    found: dict[tuple[str, int], list[Event]] = {}
    for event in events:
        found.setdefault((event["slot"], event["code"]), []).append(event)
    return [(slot, code, mine) for (slot, code), mine in sorted(found.items())]


def _times(events: list[Event]) -> str:
    first, last = events[0]["time"], events[-1]["time"]
    return f"once, at {first}" if len(events) == 1 else f"{len(events)} times, {first} to {last}"


def _lines(events: list[Event]) -> list[str]:
    return [events[0]["line"], events[-1]["line"]][: len(events)]


def _read(scene: Scene, what: str, look: Look) -> bool:
    log = scene.report["log"]
    if not log["readable"]:
        why = log["error"] or "it cannot be read"
        look.unknown(HOST, f"{what} in {log['source']}", why=why, because="host.kernel-log")
        return False
    look.at(HOST, f"kernel log ({log['source']})", found="read", expected="read")
    return True


@check(
    "gpu.xid",
    component="gpu",
    needs=("gpus",),
    source="verify/data/xids.json; kernel log since boot, not until logrotate "
    "(Azure/azurehpc PR 648)",
    fault="xid:7:48",
)
def test_xid(scene: Scene, look: Look) -> None:
    """The kernel log holds no Xid of the hardware since boot; an application's own are no fault."""
    if not _read(scene, "Xids", look):
        return
    for slot, code, events in _by_part(scene.report["log"]["xids"]):
        row = xids.judged(code, events[-1]["line"])
        because = "gpu.answers" if code in FALLEN and is_out_of_reach(scene, slot) else ""
        held = row["class"] in ("application", "information")
        if code == xids.RECOVERY_CHANGED and not held:
            now = _wish_now(scene, slot)
            held, because = now == 0, because or ("gpu.recovery" if now else "")
        look.at(
            at_slot(slot, scene),
            f"Xid {code}: {row['meaning']}",
            found=_times(events),
            expected="never since boot",
            held=held,
            verdict=severity(row),
            action=row["action"],
            evidence=[*_lines(events), f"gpufleet explain xid-{code}"],
            because=because,
        )


def _wish_now(scene: Scene, slot: str) -> int | None:
    """What NVML says now that the driver wants done about the GPU of a slot; None: it does not."""
    for gpu in scene.report["nvml"]["gpus"]:
        if same_slot(gpu["slot"], slot):
            wish: int | None = gpu["recovery_action"]
            return wish
    return None


def severity(row: dict[str, str]) -> str:
    """fail for what takes a GPU out of use; degraded for what peers only watch, and the unknown."""
    serious = row["class"] == "hardware" and row["action"] != "keep"
    return "fail" if serious else "degraded"


@check(
    "gpu.sxid",
    component="fabric",
    needs=("nvswitches",),
    action="reboot",
    source="verify/data/sxids.json: NVIDIA, Fabric Manager User Guide, NVSwitch SXid errors",
    fault="sxid:0:20034",
)
def test_sxid(scene: Scene, look: Look) -> None:
    """The kernel log holds no fatal SXid of an NVSwitch since boot, nor one that costs traffic."""
    if not _read(scene, "SXids", look):
        return
    for slot, code, events in _by_part(scene.report["log"]["sxids"]):
        fatal = any(event["fatal"] for event in events)
        row = xids.switch_row(code, fatal)
        look.at(
            Component(kind="fabric", name="NVSwitch", slot=slot),
            f"SXid {code}: {row['meaning']}",
            found=_times(events),
            expected="never since boot",
            held=row["class"] == "information",
            verdict="fail" if row["class"] == "fatal" else "degraded",
            action=row["action"],
            evidence=[*_lines(events), f"gpufleet explain sxid-{code}"],
        )
