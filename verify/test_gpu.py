"""The GPUs of a host: all there, the same as ever, whole, and with a full link."""

from __future__ import annotations

from typing import Any

from verify.applies import Scene
from verify.checks import HOST, Look, check
from verify.gpus import (
    answering,
    at_slot,
    is_out_of_reach,
    lost_gpus,
    out_of_reach,
    part,
    same_slot,
    told,
)
from verify.xids import RECOVERY, kind

ACCEPT = "if they were changed on purpose: gpufleet verify --accept-hardware"


@check(
    "gpu.count",
    component="gpu",
    needs=("gpus",),
    action="service",
    source="OCI's check_gpu_setup.py and leptonai/gpud count NVML against PCI; nebius/soperator's "
    "gpu-fryer.sh lets 7 of 8 pass",
    fault="gpu-absent:1",
)
def test_count(scene: Scene, look: Look) -> None:
    """NVML, the PCI bus and the expected state agree on the number of GPUs."""
    _on_the_bus(scene, look)
    nvml, pci = scene.report["nvml"], scene.report["pci"]
    if nvml["state"] != "ok":
        why = f"NVML did not answer ({nvml['state']})"
        look.unknown(HOST, "GPUs that NVML shows", why=why, because="nvml.answers")
        return
    shown = [gpu["slot"] for gpu in (*nvml["gpus"], *lost_gpus(scene))]
    for one in pci["gpus"]:
        look.at(
            at_slot(one["slot"], scene),
            "GPU that is on the PCI bus",
            found="in NVML"
            if any(same_slot(slot, one["slot"]) for slot in shown)
            else "not in NVML",
            expected="in NVML",
            action="reboot",
            because="gpu.answers" if is_out_of_reach(scene, one["slot"]) else "",
        )
    nameless = [gpu for gpu in lost_gpus(scene) if not gpu["slot"]]
    look.at(
        HOST,
        "GPUs that NVML counts",
        found=nvml["count"],
        expected=len(nvml["gpus"]),
        action="reboot",
        because="gpu.answers" if nameless else "",
    )


def _on_the_bus(scene: Scene, look: Look) -> None:
    pci, expected = scene.report["pci"], scene.expected
    if pci["error"]:
        look.unknown(HOST, "GPUs on the PCI bus", why=pci["error"])
        return
    wanted, baseline = (expected or {}).get("gpus"), scene.expected_from
    if wanted is None:
        if scene.record is None:
            return
        wanted, baseline = len(scene.record["gpus"]), "history"
    found = len(pci["gpus"])
    gone = [
        gpu
        for gpu in (scene.record["gpus"] if scene.record else [])
        if not any(same_slot(gpu["slot"], one["slot"]) for one in pci["gpus"])
    ]
    if found >= wanted or len(gone) != wanted - found:
        more = f"; {ACCEPT}, then gpufleet lock" if found > wanted else ""
        look.at(
            HOST,
            "GPUs on the PCI bus",
            found=found,
            expected=f"{wanted}{more}",
            held=found == wanted,
            verdict="degraded" if found > wanted else "fail",
            action="keep" if found > wanted else "",
            baseline=baseline,
        )
        return
    for gpu in gone:  # as many as are missing: these are the missing ones
        look.at(
            part(gpu),
            "GPU on the PCI bus",
            found=f"gone: the bus shows {found} GPUs",
            expected=f"{wanted} GPUs, this one as in the last good run",
            held=False,
            baseline=baseline,
        )


@check(
    "gpu.answers",
    component="gpu",
    needs=("gpus",),
    action="reboot",
    source="NVML API, NVML_ERROR_GPU_IS_LOST; `rev ff`: OCI's oci-hpc check_gpu_setup.py",
    fault="gpu-lost:1",
)
def test_answers(scene: Scene, look: Look) -> None:
    """Every GPU on the PCI bus answers, and to the nvidia driver."""
    pci, loaded = scene.report["pci"], "nvidia" in scene.report["modules"]["loaded"]
    if pci["error"]:
        look.unknown(HOST, "GPUs on the PCI bus", why=pci["error"])
    if not pci["gpus"] and not pci["error"]:
        why = "none is on the PCI bus"
        look.unknown(HOST, "GPUs on the PCI bus", why=why, because="gpu.count")
    silent = out_of_reach(scene)
    for one in pci["gpus"]:
        component, why = at_slot(one["slot"], scene), silent.get(one["slot"].partition(".")[0], "")
        nouveau = one["driver"] == "nouveau"
        unbound = not one["driver"] and not why
        if unbound and not loaded:
            because = _why_unloaded(scene)
            look.unknown(component, "this GPU", why="no driver is loaded", because=because)
            continue
        look.at(
            component,
            "this GPU",
            found=why or ("bound to no driver" if unbound else "answers"),
            expected="answers",
            action="keep" if one["driver"] == "vfio-pci" else "reboot",
            because="driver.nouveau" if nouveau else "",
        )
    for gpu in lost_gpus(scene):
        if not any(same_slot(gpu["slot"], one["slot"]) for one in pci["gpus"]):
            look.at(part(gpu), "this GPU", found="NVML says that it is lost", expected="answers")


@check(
    "gpu.recovery",
    component="gpu",
    needs=("nvml", "recovery"),
    action="drain",
    source="nvml.h, field 230 (driver 570 and newer); NVIDIA/DCGM issue 263: `dcgmi health` "
    "ignores it",
    fault="nvml:0:recovery_action=1",
)
def test_recovery(scene: Scene, gpus: list[dict[str, Any]], look: Look) -> None:
    """The driver itself wants nothing done about any GPU."""
    for gpu in answering(gpus, scene, look):
        wish = told(gpu, "recovery_action", "what the driver wants done", look)
        if wish is None:
            continue
        said, action = RECOVERY.get(wish, (f"recovery action {wish}", "drain"))
        look.at(
            part(gpu),
            "what the driver itself wants done about this GPU",
            found=said,
            expected="nothing",
            action=action,
            because=_known_reason(gpu, scene),
        )


def _known_reason(gpu: dict[str, Any], scene: Scene) -> str:
    """The check that says why the driver wants something done; "" when none does."""
    if (gpu["remap"] or {}).get("pending"):
        return "gpu.remap-pending"
    if (gpu["remap"] or {}).get("failed"):
        return "gpu.remap-failed"
    if (gpu["ecc"] or {}).get("uncorrected"):
        return "gpu.ecc"
    if (gpu["sram"] or {}).get("threshold_exceeded"):
        return "gpu.sram"
    events = [one for one in scene.report["log"]["xids"] if same_slot(one["slot"], gpu["slot"])]
    return "gpu.xid" if any(kind(one["code"]) == "hardware" for one in events) else ""


def _why_unloaded(scene: Scene) -> str:
    return "nvml.answers" if scene.report["nvml"]["state"] != "ok" else ""


@check(
    "gpu.identity",
    component="gpu",
    needs=("nvml", "record"),
    source="a swapped card: cluster-health-scanner, OCI's oci-hpc and Meta's gcm compare GPUs; "
    "ours: with the record of the host's last good run",
    fault="nvml:2:serial=9999999999999",
)
def test_identity(scene: Scene, look: Look) -> None:
    """The GPUs are those of the last good run: model, UUID and serial number."""
    gpus, record = scene.report["nvml"]["gpus"], scene.record
    assert record is not None
    since = f"as in the good run of {record['time']}"
    for old in record["gpus"]:
        now = next((gpu for gpu in gpus if same_slot(gpu["slot"], old["slot"])), None)
        if now is None or now["lost"]:
            because = "gpu.answers" if is_out_of_reach(scene, old["slot"]) else "gpu.count"
            look.unknown(part(old), "identity", why="this GPU does not answer", because=because)
            continue
        for field, verdict in (("name", "fail"), ("uuid", "degraded"), ("serial", "degraded")):
            if now[field] is None and field in now["errors"]:
                look.unknown(part(now), field, why=now["errors"][field])
                continue
            look.at(
                part(now),
                f"{field}, {since}",
                found=now[field] or "",
                expected=old[field],
                verdict=verdict,
                baseline="history",
                evidence=(ACCEPT,),
            )
    for gpu in gpus:
        if not gpu["lost"] and not any(same_slot(gpu["slot"], o["slot"]) for o in record["gpus"]):
            look.at(
                part(gpu),
                "GPU in this slot",
                found=gpu["name"],
                expected=f"none, {since}",
                verdict="degraded",
                baseline="history",
                evidence=(ACCEPT,),
            )
