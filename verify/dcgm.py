"""What `dcgmi diag -j` printed, read as hostile data. Pure.

Travels to the host: standard library only, Python 3.10. Two forms are known: DCGM 3.x writes
{"DCGM GPU Diagnostic": {"test_categories": [{"tests": [{"name", "results": [{"gpu_ids",
"status", "warnings"}]}]}]}}, and 4.x {"DCGM Diagnostic": ...} with results of an "entity_group"
and "entity_id" and a "test_summary" (NVIDIA/DCGM: nvvs/include/NvvsCommon.h and
dcgmi/Diag.cpp). NVIDIA publishes no schema and asks to test against each release ("Diagnostic
Errors", docs.nvidia.com/datacenter/dcgm), so whatever else comes is not-run and never a pass.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

ROOTS = ("DCGM Diagnostic", "DCGM GPU Diagnostic")
PASS, FAIL, WARN, SKIP = "pass", "fail", "warn", "skip"
STATUSES = {
    "pass": PASS, "fail": FAIL, "warn": WARN, "skip": SKIP, "skipped": SKIP, "not run": SKIP,
}  # fmt: skip
MOST_TESTS = 200
MOST_RESULTS = 512
MOST_TEXT = 300
CONFIG = 5
"""Severity of an error that is a setting of the host (DCGM_ERROR_CONFIG)."""


class Unreadable(Exception):  # noqa: N818 - an answer, not a fault
    """It is not the result of a diagnosis; the text says why."""


@dataclass(frozen=True)
class Outcome:
    """What one test says of one GPU, or of the host."""

    test: str
    gpu: int | None
    """DCGM's number of the GPU; None: the test speaks of the host, or of what is no GPU."""
    status: str
    """pass, fail, warn or skip."""
    said: tuple[str, ...]
    config: bool
    """All its errors are settings of the host, and no hardware."""


def read(text: str) -> list[Outcome]:
    """Every result. Raises Unreadable; a status that nobody knows is unreadable too."""
    start = text.find("{")
    if start < 0:
        raise Unreadable("it printed no JSON")
    try:
        found, _ = json.JSONDecoder().raw_decode(text[start:])
    except (ValueError, RecursionError):
        raise Unreadable("its JSON is truncated, or mixed with other output") from None
    root = next((found[key] for key in ROOTS if isinstance(found.get(key), dict)), None)
    if root is None:
        raise Unreadable("it is neither the form of DCGM 3 nor that of DCGM 4")
    trouble = root.get("runtime_error")
    if trouble:
        raise Unreadable(f"it could not be done: {str(trouble)[:MOST_TEXT]}")
    outcomes: list[Outcome] = []
    for category in _list(root.get("test_categories"), "test_categories"):
        for test in _list(category.get("tests"), "tests"):
            name = test.get("name")
            if not isinstance(name, str) or not name:
                raise Unreadable("a test has no name")
            outcomes += _of_test(name[:80], test)
    if not any(one.status != SKIP for one in outcomes):
        raise Unreadable("no test was done")
    return outcomes


def _list(value: Any, name: str) -> list[dict[str, Any]]:
    # DCGM 3 leaves null between entries where a test does not apply.
    if not isinstance(value, list) or len(value) > MOST_TESTS:
        raise Unreadable(f"its {name} are no list of at most {MOST_TESTS}")
    if any(one is not None and not isinstance(one, dict) for one in value):
        raise Unreadable(f"its {name} are no objects")
    return [one for one in value if one is not None]


def _of_test(name: str, test: dict[str, Any]) -> list[Outcome]:
    results = _list(test.get("results", []), "results")[:MOST_RESULTS]
    found = [one for result in results for one in _of_result(name, result)]
    summary = test.get("test_summary")
    if isinstance(summary, dict):
        own = _of_result(name, summary)
        # The summary repeats what its entities say, but for errors that are nobody's own.
        if not found or (own[0].status == FAIL and not any(one.status == FAIL for one in found)):
            found += own
    return found


def _of_result(name: str, result: dict[str, Any]) -> list[Outcome]:
    status = STATUSES.get(str(result.get("status", "")).strip().lower())
    if status is None:
        said = str(result.get("status"))[:40]
        raise Unreadable(f"{name} has the status {said!r}, which nobody knows")
    warnings = result.get("warnings") or []
    warnings = warnings if isinstance(warnings, list) else [warnings]
    told, severities = [], []
    for one in warnings[:8]:
        told.append(str(one.get("warning", one) if isinstance(one, dict) else one)[:MOST_TEXT])
        severities.append(one.get("error_severity") if isinstance(one, dict) else None)
    config = bool(severities) and all(one == CONFIG for one in severities)
    return [Outcome(name, gpu, status, tuple(told), config) for gpu in _gpus(result)]


def _gpus(result: dict[str, Any]) -> list[int | None]:
    if "gpu_ids" in result:
        ids = [one.strip() for one in str(result["gpu_ids"]).split(",")]
        if len(ids) > 64 or not all(one.isascii() and one.isdigit() for one in ids):
            raise Unreadable("a result names GPUs that are no numbers")
        return [int(one) for one in ids]
    entity = result.get("entity_id")
    if result.get("entity_group") == "GPU" and isinstance(entity, int):
        return [entity]
    return [None]
