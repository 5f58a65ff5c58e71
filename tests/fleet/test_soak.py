"""The long matrix (make soak): every fault beyond a quick run, each in a whole `gpufleet verify`.

Faults of quick runs are asked in tests/fleet/test_verify_faults.py, in batches; here is what loads
a host: one fault, one run at the cheapest level that claims it, one finding at its part.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.faulted import ALONE, FLEET, MATRIX
from tests.faulted.row import H100, L40S, V100, Row
from tests.faulted.table import HEALTHY, Seen, seen
from tests.fleet.live import LiveFleet
from tests.fleet.test_apply import Lab, status
from tests.fleet.test_verify_faults import causes, named
from tests.fleet.test_verify_training import WISHES
from verify.report.catalogue import catalogue
from verify.results import Finding, HostResult

pytestmark = [pytest.mark.fleet, pytest.mark.soak]

NODES = (H100, L40S, V100)
QUICK_RUNS, STANDARD_RUNS = 20, 3
ROWS = [FLEET, *(row for row in MATRIX if row.level != "quick")]
SOAK = [id for id, one in catalogue().items() if one.level == "deep"]
SECONDS = 8
"""Of a soak: a simulated GPU has no hour to show."""


@pytest.fixture(scope="module")
def lab(fleet: LiveFleet, tmp_path_factory: pytest.TempPathFactory) -> Lab:
    """Three nodes, converged, with the CPU build of torch."""
    made = Lab(fleet, tmp_path_factory.mktemp("lab"), dict.fromkeys(NODES, WISHES))
    done = made.apply()
    assert done.status == 0, status(done)
    for node in NODES:
        fleet.fault(node, f"soak-short:{SECONDS}")
    return made


def words(row: Row) -> list[str]:
    """The options that ask what a row's level names, and nothing else."""
    if row.level == "workload":
        return ["--workload", row.check.partition(".")[2], "--limit", row.node]
    if row.level == "multi-node":
        return ["--multi-node"]
    # Of level deep the soak alone: the rest of it is asked by every row of the other levels.
    soak = ["--minutes", "1", *(word for id in SOAK for word in ("--check", id))]
    more = soak if row.level == "deep" else []
    return ["--level", row.level, *more, "--limit", row.node]


def part(node: str, finding: Finding) -> str:
    """A component in the words of the matrix; a rank by its number."""
    of = finding.component
    return f"rank {of.index}" if of.kind == "rank" else named(node, finding)


def results(lab: Lab) -> dict[str, HostResult]:
    """What the hosts of the newest run answered."""
    found = {}
    for path in (lab.runs()[-1] / "hosts").iterdir():
        document = json.loads(Path(path).read_text())
        if document["result"]:
            found[path.stem] = HostResult.model_validate(document["result"])
    return found


@pytest.mark.parametrize(("level", "times"), [("quick", QUICK_RUNS), ("standard", STANDARD_RUNS)])
def test_healthy_hosts_have_no_finding(lab: Lab, level: str, times: int) -> None:
    for _ in range(times):
        done = lab.gpufleet("verify", "lab.py", "--level", level)
        found = results(lab)
        assert set(found) == set(NODES)
        for result in found.values():
            clean = not any(check.findings for check in result.checks)
            seen(Seen(HEALTHY, level, "", "", "", "", result.seconds, clean))
        assert done.status == 0, status(done)


def test_a_host_that_cannot_be_logged_in_to_is_named(lab: Lab) -> None:
    with lab.fleet.broken(ALONE.node, ALONE.fault):
        done = lab.gpufleet("verify", "lab.py")
    documents = {path.stem: json.loads(path.read_text())
                 for path in (lab.runs()[-1] / "hosts").iterdir()}  # fmt: skip
    mine = documents[ALONE.node]
    good = {name: one["verdict"] for name, one in documents.items()} == {
        H100: "pass", L40S: "pass", V100: ALONE.verdict,
    }  # fmt: skip
    seen(
        Seen(
            ALONE.fault, ALONE.level, ALONE.check, f"host {ALONE.node}", mine["verdict"],
            mine["action"], 0.0, good,
        )
    )  # fmt: skip
    assert good, status(done)
    assert done.status == 4, status(done)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.check} {row.fault}")
def test_a_fault_is_found_by_its_check_at_its_part(lab: Lab, row: Row) -> None:
    with lab.fleet.broken(row.node, row.fault):
        done = lab.gpufleet("verify", "lab.py", *words(row))
    result = results(lab).get(row.node)
    assert result is not None, status(done)
    blamed = causes(result)
    mine = [one for check, one in blamed if check.id == row.check]
    parts = sorted({part(row.node, one) for one in mine})
    right = bool(mine) and all(any(one.startswith(p) for p in row.parts) for one in parts)
    good = right and {check.id for check, _ in blamed} == {row.check}
    good = good and {one.verdict for one in mine} == {row.verdict}
    by = ", ".join(sorted({check.id for check, _ in blamed}))
    first = mine[0] if mine else None
    seen(
        Seen(
            row.fault, row.level, by, ", ".join(parts), first.verdict if first else "",
            first.action if first else "", result.seconds, good,
        )
    )  # fmt: skip
    assert good, f"{by or 'nothing'} at {parts}: {status(done)}"
    assert done.status == (0 if row.verdict == "degraded" else 1), status(done)
