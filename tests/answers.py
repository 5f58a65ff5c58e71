"""Answers of hosts for tests, as plain JSON values: what verify/onhost.py prints."""

import copy
import json
from typing import Any

from verify.results import Request

HOST = {"kind": "host", "name": "", "index": None, "uuid": "", "serial": "", "slot": ""}
GPU = {
    "kind": "gpu",
    "name": "NVIDIA H100 80GB HBM3",
    "index": 3,
    "uuid": "GPU-8f7f0c3e",
    "serial": "1650123456789",
    "slot": "0000:4a:00.0",
}
BUNDLE = "b" * 64
QUICK = {"gpu.count", "gpu.ecc", "host.disk", "fabric.manager"}
KNOWN = QUICK | {"train.loss"}


def request(**changed: Any) -> Request:
    """A request of every quick check."""
    values: dict[str, Any] = {
        "nonce": "n0nce",
        "host": "gpu1",
        "level": "quick",
        "checks": (),
        "expected": None,
        "prefix": "/opt/gpufleet",
        "train_as": "",
        "accept_hardware": False,
    }
    return Request(**{**values, **changed})


def finding(verdict: str = "fail", action: str = "service", **changed: Any) -> dict[str, Any]:
    return {
        "component": GPU,
        "verdict": verdict,
        "what": "uncorrectable errors",
        "found": "12",
        "expected": "0",
        "action": action,
        "baseline": "claim",
        "evidence": ["Volatile DRAM uncorrectable: 12"],
        "because": "",
        **changed,
    }


def checked(id: str, *findings: dict[str, Any], **changed: Any) -> dict[str, Any]:
    """One check that was asked; its verdict follows from its findings."""
    order = ["pass", "degraded", "not-run", "hung", "fail"]
    worst = max((one["verdict"] for one in findings), key=order.index, default="pass")
    return {
        "id": id,
        "claim": f"The claim of {id}.",
        "level": "quick",
        "verdict": worst,
        "seconds": 0.01,
        "looked_at": 8,
        "findings": list(findings),
        **changed,
    }


def answer(*checks: dict[str, Any], **changed: Any) -> dict[str, Any]:
    """A document; the checks of QUICK that are not given pass, and fabric.manager is not asked."""
    given = {one["id"] for one in checks}
    rest = [checked(id) for id in sorted(QUICK - given - {"fabric.manager"})]
    return copy.deepcopy(
        {
            "schema": 1,
            "nonce": "n0nce",
            "host": "gpu1",
            "hostname": "gpu1.example",
            "boot_id": "0f0e",
            "started": "2026-01-01T00:00:00Z",
            "seconds": 1.5,
            "level": "quick",
            "bundle": BUNDLE,
            "python": "3.11.2 /usr/bin/python3",
            "user": "root",
            "simulated": False,
            "expected_from": "lock",
            "stack": "",
            "gpus": [{name: GPU[name] for name in ("index", "name", "uuid", "serial", "slot")}],
            "busy": [],
            "checks": [*checks, *rest],
            "not_asked": [
                {"id": "fabric.manager", "reason": "no NVSwitch is on the PCI bus"},
                {"id": "train.loss", "reason": "level quick does not ask it"},
            ],
            "measurements": [
                {
                    "name": "seconds",
                    "unit": "s",
                    "value": 1,
                    "component": HOST,
                    "conditions": {"of": "NVML"},
                }
            ],
            **changed,
        }
    )


def printed(document: dict[str, Any]) -> str:
    """The output of a host that gives this answer, with a banner of its shell around it."""
    return f"Welcome!\n\nGPUFLEET {json.dumps(document)}\n"
