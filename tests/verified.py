"""Results of verification for tests: documents of hosts as verify/onhost.py prints them.

`healthy` is an hgx-h100 host on which every check held; the functions after it break one thing
each, as the real checks would tell it.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from deploy.fleet.runs import Run
from verify.results import SCHEMA, Action, HostResult, HostVerdict, HostVerification

CLAIMS = {
    "host.self-name": "The host can resolve its own name.",
    "host.disk": "There is free space where it is needed, and nothing is read-only.",
    "gpu.count": "NVML, the PCI bus and the expected state agree on the number of GPUs.",
    "gpu.answers": "Every GPU on the PCI bus answers.",
    "gpu.ecc": "No GPU has uncorrectable memory errors since it was last reset.",
    "gpu.remap-pending": "No row of a GPU's memory waits to be remapped.",
    "gpu.xid": "The kernel log holds no Xid of the hardware since boot.",
    "gpu.pcie-width": "Every GPU's link has the width that it can have.",
    "nvml.answers": "NVML answers in time.",
    "driver.version": "Loaded module, installed package and NVML are one driver version.",
    "fabric.manager": "The fabric manager is active and of the driver's version.",
    "stack.packages": "Installed packages have the locked versions.",
    "env.works": "The environment's Python starts and imports torch.",
}
"""Check -> claim, of those that a healthy host is asked."""
OF_A_GPU = ("gpu.answers", "gpu.ecc", "gpu.remap-pending", "gpu.xid", "gpu.pcie-width")
H100 = "NVIDIA H100 80GB HBM3"


def gpu(index: int, host: str = "gpu1", name: str = H100) -> dict[str, Any]:
    """One GPU as NVML names it; its UUID differs from host to host."""
    number = sum(map(ord, host)) * 100 + index
    return {
        "index": index,
        "name": name,
        "uuid": f"GPU-{number:08x}-0000-4000-8000-{number:012x}",
        "serial": f"165{number:010d}",
        "slot": f"0000:{0x19 + 0x11 * index:02x}:00.0",
    }


def part(of: Mapping[str, Any]) -> dict[str, Any]:
    """A GPU as the component of a finding."""
    return {"kind": "gpu", **{key: of[key] for key in ("index", "name", "uuid", "serial", "slot")}}


def finding(component: Mapping[str, Any] | None = None, **fields: Any) -> dict[str, Any]:
    """A finding with a little of everything in it, but for `fields`."""
    return {
        "component": dict(component or {"kind": "host"}),
        "verdict": "fail",
        "what": "something",
        "found": "2",
        "expected": "1",
        "action": "keep",
        "baseline": "claim",
        "evidence": (),
        "because": "",
    } | fields


def check(id: str, *findings: Mapping[str, Any], looked_at: int = 8) -> dict[str, Any]:
    """What one check came to: as bad as the worst of its findings."""
    order = ("pass", "degraded", "not-run", "hung", "fail")
    return {
        "id": id,
        "claim": CLAIMS.get(id, f"The claim of {id} holds."),
        "level": "standard" if id.startswith("train.") else "quick",
        "verdict": max((one["verdict"] for one in findings), key=order.index, default="pass"),
        "seconds": 0.01,
        "looked_at": looked_at,
        "findings": list(findings),
    }


def document(
    host: str = "gpu1",
    findings: Mapping[str, Iterable[Mapping[str, Any]]] | None = None,
    *,
    gpus: int = 8,
    **fields: Any,
) -> dict[str, Any]:
    """The document of one host; `findings` by check id."""
    broken = {id: tuple(found) for id, found in (findings or {}).items()}
    return {
        "schema": SCHEMA,
        "nonce": "n0nce",
        "host": host,
        "hostname": host,
        "boot_id": "11111111-2222-4333-8444-555555555555",
        "started": "2026-11-22T12:00:00.000Z",
        "seconds": 1.9,
        "level": "quick",
        "bundle": "b" * 64,
        "python": "3.11.2 /opt/gpufleet/envs/0123456789ab/bin/python",
        "user": "root",
        "simulated": False,
        "expected_from": "lock",
        "stack": "1a3364fb500a",
        "gpus": [gpu(index, host) for index in range(gpus)],
        "busy": [],
        "checks": [check(id, *broken.get(id, ())) for id in {**CLAIMS, **broken}],
        "not_asked": [
            {"id": id, "reason": "asked at level standard"}
            for id in ("train.ended", "train.collectives", "train.gradients")
        ],
        "measurements": [],
    } | fields


def verified(
    result: Mapping[str, Any] | None = None,
    verdict: HostVerdict = "pass",
    *,
    host: str = "",
    action: Action = "keep",
    message: str = "",
) -> HostVerification:
    """A host with its verdict as the judge gives it."""
    return HostVerification(
        host=host or (result or {})["host"],
        verdict=verdict,
        action=action,
        message=message,
        result=HostResult.model_validate(dict(result)) if result else None,
    )


def healthy(host: str = "gpu1", **fields: Any) -> HostVerification:
    """Nothing is wrong here."""
    return verified(document(host, **fields))


def remap_pending(host: str = "gpu2", index: int = 3) -> HostVerification:
    """One GPU has a memory row that only a reset will remap."""
    row = finding(
        part(gpu(index, host)),
        what="rows waiting to be remapped",
        found="yes",
        expected="no",
        action="reset",
        evidence=["nvmlDeviceGetRemappedRows: corrected 0, uncorrected 1, pending 1, failed 0"],
    )
    result = document(host, {"gpu.remap-pending": [row]})
    return verified(result, "fail", action="reset", message="rows waiting to be remapped: yes")


def lost_gpu(host: str = "gpu3", index: int = 5) -> HostVerification:
    """A GPU fell off the bus: one cause, and checks that could not look at it."""
    lost = part(gpu(index, host))
    cause = finding(
        lost,
        what="answer of the GPU",
        found="the PCI bus reads it as revision ff",
        expected="an answer",
        action="reboot",
        evidence=["NVRM: Xid (PCI:0000:6e:00): 79, pid=0, GPU has fallen off the bus."],
    )
    findings = {"gpu.answers": [cause]} | {
        id: [
            finding(
                lost,
                verdict="not-run",
                what=f"what {id} reads",
                found="the GPU is lost",
                expected="",
                because="gpu.answers",
            )
        ]
        for id in OF_A_GPU[1:]
    }
    return verified(document(host, findings), "fail", action="reboot", message="a GPU is lost")


def drifted(host: str = "gpu4") -> HostVerification:
    """A package is not the locked one: what `gpufleet apply` mends."""
    package = finding(
        {"kind": "package", "name": "libnccl2"},
        what="version of libnccl2",
        found="2.27.3-1+cuda13.0",
        expected="2.29.7-1+cuda13.0",
        baseline="lock",
    )
    return verified(document(host, {"stack.packages": [package]}), "fail", message="drifted")


def hung(host: str = "gpu5") -> HostVerification:
    """NVML never answered: no GPU has a name, and nothing about GPUs could be looked at."""
    findings = {
        "nvml.answers": [
            finding(
                {"kind": "driver"},
                verdict="hung",
                what="NVML",
                found="no answer within 10 s, at: device 3: ecc",
                expected="",
                action="reboot",
            )
        ]
    } | {
        id: [
            finding(
                verdict="not-run",
                what="GPUs",
                found="NVML does not answer",
                expected="",
                because="nvml.answers",
            )
        ]
        for id in OF_A_GPU
    }
    result = document(host, findings, gpus=0)
    return verified(result, "hung", action="reboot", message="NVML hangs")


def unreachable(host: str = "gpu6") -> HostVerification:
    """It never answered at all."""
    said = f"{host}: no answer on port 22 within 10 s; look at the machine, or take it out"
    return verified(None, "unreachable", host=host, message=said)


def recorded(
    root: Path, hosts: Iterable[HostVerification], *, exit: int = 1, inventory: str = "lab.py"
) -> Path:
    """A finished verify run with these hosts, in a new directory below `root`."""
    each = list(hosts)
    run = Run(
        root,
        ["gpufleet", "verify", inventory],
        inventory=inventory,
        hosts=[one.host for one in each],
    )
    for one in each:
        data = one.model_dump(mode="json", by_alias=True, exclude={"host"})
        run.result(one.host, one.verdict, **data)
    run.end(exit, "finished")
    return run.directory
