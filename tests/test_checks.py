"""Every check sees both colours: green on a healthy host, red at the right part of a broken one."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from tests import reported
from tests.broken import Case
from tests.cases import CASES
from tests.reported import ask, changed, host, scene
from tests.sim import faults
from verify.applies import NEEDS, Scene
from verify.bundle import STAYS
from verify.checks import Check, Look
from verify.judging.claims import OFFLINE, REACHABLE
from verify.report.catalogue import catalogue

ROOM = Path(__file__).parent.parent / "verify"
PAYLOADS = {"test_start", "test_training", "test_bench", "test_deep", "test_nodes", "test_workload"}
MODULES = sorted({path.stem for path in ROOM.glob("test_*.py")} - PAYLOADS)
"""All but training, the torch tier and the soak, whose payloads have tests of their own."""


def checks() -> dict[str, Callable[..., None]]:
    """Every check of these modules by its id."""
    found = {}
    for name in MODULES:
        for value in vars(import_module(f"verify.{name}")).values():
            if isinstance(getattr(value, "check", None), Check):
                found[value.check.id] = value
    return found


CHECKS = checks()
HARDWARE = ("hgx-h100", "l40s", "v100", "none")


# ---- green


@pytest.mark.parametrize("hardware", HARDWARE)
@pytest.mark.parametrize("id", CHECKS)
def test_a_healthy_host_is_green(id: str, hardware: str) -> None:
    look = ask(CHECKS[id], scene(hardware))
    if isinstance(look, str):
        assert look  # not asked, and says why
        return
    assert look.verdict == "pass"
    assert look.findings == []


def test_every_check_is_asked_of_some_healthy_host() -> None:
    for id, check in CHECKS.items():
        assert any(isinstance(ask(check, scene(kind)), Look) for kind in HARDWARE), id


# ---- red


def named(component: dict[str, Any], of: Scene) -> str:
    """A component in the words of a case."""
    if component["kind"] != "gpu":
        return f"{component['kind']} {component['name']}".strip()
    assert of.record is not None
    for index, one in enumerate(reported.record("v100" if of.report["pci"]["nvswitches"] == []
                                               else "hgx-h100")["gpus"]):  # fmt: skip
        if one["uuid"] == component["uuid"] or one["slot"] == component["slot"]:
            return f"gpu {index}"
    return "gpu ?"


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_a_broken_host_is_red_at_the_right_part(case: Case) -> None:
    broken = changed(scene(case.hardware, **case.scene), case.change)
    there = host(broken)
    case.there(there)
    look = ask(CHECKS[case.id], broken, there)
    assert isinstance(look, Look), f"not asked: {look}"
    findings = look.document()
    assert findings
    parts = [named(one["component"], broken) for one in findings]
    wanted = case.part.replace(" gone", "").replace(" old", "")
    if wanted in ("environment", "driver"):
        assert all(part.startswith(wanted) for part in parts)
    else:
        assert ", ".join(dict.fromkeys(parts)) == wanted
    first = findings[0]
    assert first["verdict"] == case.verdict == look.verdict
    assert first["action"] == case.action
    assert {one["because"] for one in findings} == {case.because}
    assert case.says in first["found"]
    assert first["what"]


def test_every_check_has_a_red_case_that_is_its_own_cause() -> None:
    assert {case.id for case in CASES} == set(CHECKS)
    first = {case.id: case for case in reversed(CASES)}
    for id, case in first.items():
        assert case.because == "", id
        assert case.verdict != "not-run", f"{id}: its main fault must be seen, not unknown"


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_every_cause_that_is_named_is_a_finding_itself(case: Case) -> None:
    """Nothing is a consequence of a check that finds nothing: then no cause would be shown."""
    broken = changed(scene(case.hardware, **case.scene), case.change)
    there = host(broken)
    case.there(there)
    verdicts: dict[str, Look] = {}
    for id, check in CHECKS.items():
        look = ask(check, broken, there)
        if isinstance(look, Look):
            verdicts[id] = look
    causes = [
        (id, one.because) for id, look in verdicts.items() for one in look.findings if one.because
    ]
    for id, cause in causes:
        assert verdicts[cause].findings, f"{id} names {cause}, which is green"
    assert any(one.because == "" for look in verdicts.values() for one in look.findings)


# ---- the contract of a check


def test_ids_are_families_with_subjects_and_claims_are_sentences() -> None:
    for id, function in CHECKS.items():
        check: Check = function.check  # type: ignore[attr-defined]
        assert re.fullmatch(r"[a-z]+\.[a-z]+(-[a-z]+)*", id)
        assert check.claim.endswith("."), id
        assert check.source, id
        assert set(check.needs) <= NEEDS.keys(), id


def test_every_check_has_a_fault_that_the_simulated_fleet_knows() -> None:
    """What the controller judges of speeds has its faults in figures: tests/test_judging_perf.py
    shows each of those checks in both colours."""
    every = [check for id, check in catalogue().items() if id != REACHABLE]
    assert {check.id for check in every} > set(CHECKS)
    for check in every:
        if check.where == "fleet" and check.fault.startswith(OFFLINE):
            continue
        kind, _ = faults.parse(check.fault)
        assert kind.name in faults.kinds()


def test_every_check_is_in_the_matrix_of_faults() -> None:
    from tests.faulted import MATRIX

    in_matrix = {(row.check, row.fault) for row in MATRIX}
    for id, function in CHECKS.items():
        assert (id, function.check.fault) in in_matrix  # type: ignore[attr-defined]


TRAVELLING = [
    *(path for path in sorted(ROOM.glob("*.py")) if path.name not in STAYS),
    *sorted((ROOM / "payload").glob("*.py")),
]


@pytest.mark.parametrize("path", TRAVELLING, ids=lambda path: path.name)
def test_what_travels_needs_nothing_that_stays(path: Path) -> None:
    text = path.read_text()
    tree = ast.parse(text, feature_version=(3, 10))
    ours = {f"verify.{one.stem}" for one in TRAVELLING} | {"verify", "verify.payload"}
    ours |= {f"verify.payload.{one.stem}" for one in TRAVELLING}
    allowed = {"pytest", "testinfra", "pynvml", "torch", "packaging"} | set(sys.stdlib_module_names)
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [str(node.module)]
        else:
            continue
        for name in names:
            if path.name == "there.py" and name == "verify.bundle":
                continue  # only from outside, where everything is
            assert name in ours or name.partition(".")[0] in allowed, f"{path.name}: {name}"
