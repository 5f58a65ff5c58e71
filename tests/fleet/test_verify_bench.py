"""The torch tier on a simulated host: green and honest about the CPU, and red where it is made to.

Each fault alone is asked by the long matrix (tests/fleet/test_soak.py); here they come together.
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.faulted.bench import ROWS
from tests.faulted.row import H100
from tests.fleet.live import LiveFleet, Result
from tests.fleet.test_apply import Lab, status
from tests.fleet.test_verify_faults import causes, named
from tests.fleet.test_verify_training import WISHES
from tests.test_bench import CHECKS, ON_GPUS
from verify.results import Finding, HostResult

pytestmark = pytest.mark.fleet

ASKED = [word for id in sorted(CHECKS) for word in ("--check", id)]


@pytest.fixture(scope="module")
def lab(fleet: LiveFleet, tmp_path_factory: pytest.TempPathFactory) -> Lab:
    """One node, converged, with the CPU build of torch."""
    made = Lab(fleet, tmp_path_factory.mktemp("lab"), {H100: WISHES})
    done = made.apply()
    assert done.status == 0, status(done)
    return made


def verified(lab: Lab) -> tuple[Result, HostResult]:
    """`gpufleet verify --level standard` of the torch tier alone, and what the node answered."""
    done = lab.gpufleet("verify", "lab.py", "--level", "standard", *ASKED)
    document = json.loads((lab.runs()[-1] / f"hosts/{H100}.json").read_text())
    assert document["result"], status(done)
    return done, HostResult.model_validate(document["result"])


def found(result: HostResult) -> dict[str, tuple[set[str], set[str]]]:
    """Check -> parts and verdicts of its findings that nothing else explains."""
    collected: dict[str, tuple[set[str], set[str]]] = {}
    for check, one in causes(result):
        parts, verdicts = collected.setdefault(check.id, (set(), set()))
        parts.add(part(one))
        verdicts.add(one.verdict)
    return collected


def part(finding: Finding) -> str:
    of = finding.component
    return f"rank {of.index}" if of.kind == "rank" else named(H100, finding)


def wanted(*checks: str) -> dict[str, Any]:
    """What the matrix says of the first fault of these checks."""
    rows = {row.check: row for row in reversed(ROWS) if row.check in checks}
    return {id: (set(row.parts), {row.verdict}) for id, row in rows.items()}


def test_a_healthy_host_is_green_and_says_what_a_cpu_cannot_prove(lab: Lab) -> None:
    done, result = verified(lab)
    assert done.status == 0, status(done)
    assert {check.id for check in result.checks} == set(CHECKS) - ON_GPUS
    assert causes(result) == []
    reasons = {one.id: one.reason for one in result.not_asked}
    assert all("no GPU is loaded" in reasons[id] for id in ON_GPUS)
    assert any(line.startswith("not proven on hardware: ") for line in result.information)
    figures = {one.name for one in result.measurements}
    assert {"bench.matmul", "bench.triad", "bench.all-reduce", "bench.seconds"} <= figures
    mine = [one for one in result.measurements if one.name.startswith("bench.")]
    assert all(one.conditions["device"] == "cpu" for one in mine)
    assert len({(one.name, one.value) for one in result.prints}) == 4
    left = lab.fleet.root(H100, "ls -d /tmp/gpufleet-* 2>/dev/null || :").ok()
    assert left == ""


def test_each_fault_is_found_by_its_check_at_its_part(lab: Lab) -> None:
    """All that can be there together, in one run."""
    checks = sorted(set(CHECKS) - {"bench.ended", "bench.agrees"})
    faults = {row.check: row.fault.partition(":")[2] for row in reversed(ROWS)}
    with lab.fleet.broken(H100, "bench:" + ",".join(faults[id] for id in checks)):
        done, result = verified(lab)
    assert done.status == 1, status(done)
    assert found(result) == wanted(*checks)
    assert all("perturbed on purpose" in " ".join(one.evidence) for _, one in causes(result))
    pretended = {"bench.peer", "bench.host-to-device", "load.power"}
    assert not pretended & {one.name for one in result.measurements}
