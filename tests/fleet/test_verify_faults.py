"""The matrix of faults: each is brought upon a node, found by its check at its part, and healed.

Faults whose findings are apart are brought upon a node together and asked about once; the next
batch sees that they are healed, for it must find nothing but its own.
"""

from __future__ import annotations

import json
import subprocess
import sys
import xml.etree.ElementTree as ET
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests import reported
from tests.faulted import HARMLESS, MATRIX
from tests.faulted.row import H100, L40S, V100, Row
from tests.faulted.table import Seen, seen
from tests.fleet.live import LiveFleet
from tests.fleet.test_apply import DRIVER_ONLY, Lab, status
from tests.sim import paths
from tests.sim.profiles import FLEETS, describe
from verify.bundle import bundle
from verify.report.catalogue import catalogue
from verify.results import CheckResult, Finding, HostResult

pytestmark = pytest.mark.fleet

ROOT = "/opt/gpufleet/bundle/matrix"
"""Where users without rights may read it, as the environment is imported by one."""
QUICK_RUNS = 20
ROWS = [row for row in MATRIX if row.level == "quick"]
"""What a quick run claims to find. Rows of other levels are asked where their runs are made."""


class Nodes:
    """Converged nodes with the bundle on them, asked directly as root."""

    def __init__(self, fleet: LiveFleet) -> None:
        self.fleet = fleet
        self.expected: dict[str, Any] = {}

    def prepare(self, node: str) -> None:
        """The bundle arrives, and a first good run records the GPUs."""
        unpack = f"sudo sh -c 'rm -rf {ROOT} && mkdir -p {ROOT} && tar -xzf - -C {ROOT}'"
        ssh = ["ssh", "-F", str(self.fleet.ssh_config), "-o", "BatchMode=yes", node, unpack]
        subprocess.run(ssh, input=bundle().archive, check=True, timeout=60)
        text = self.fleet.root(node, "cat /etc/gpufleet/expected.json").ok()
        self.expected[node] = json.loads(text)
        first = self.ask(node)
        assert not causes(first), causes(first)
        assert "gpu.identity" in {one.id for one in first.not_asked}

    def ask(self, node: str) -> HostResult:
        """A quick run against the lock."""
        request = reported.request(host=node, expected=self.expected[node])
        # The system's Python, as launch.sh takes it where the environment's does not start.
        started = f"sudo timeout 60 python3 -I -S -B {ROOT}/verify/onhost.py"
        done = self.fleet.ssh(node, started, stdin=json.dumps(request))
        answer = done.ok()
        assert answer.startswith("GPUFLEET "), done
        assert answer.count("\n") == 1
        return HostResult.model_validate_json(answer.removeprefix("GPUFLEET "))

    def batches(self, node: str) -> dict[int, HostResult]:
        """Every batch of a node's faults, one after another; under 0 the run after the last."""
        found = {}
        for number in sorted({row.batch for row in ROWS if row.node == node}):
            rows = [row.fault for row in ROWS if (row.node, row.batch) == (node, number)]
            rows += HARMLESS.get((node, number), ())
            with self.fleet.broken(node, *rows):
                found[number] = self.ask(node)
        found[0] = self.ask(node)
        return found


@pytest.fixture(scope="module")
def nodes(fleet: LiveFleet, tmp_path_factory: pytest.TempPathFactory) -> Nodes:
    """The nodes that the matrix names, provisioned by apply and seen green once."""
    lab = Lab(fleet, tmp_path_factory.mktemp("lab"), {})
    wheels = fleet.document["wheels_by_build_url"]
    cuda = {"torch": "2.13.0", "torch_build": "cu130", "torch_index": f"{wheels}/cu130"}
    cuda["cuda"] = "none"  # no fault needs the toolkit, and its thirty packages take long
    around = {"mounts": ["/data"], "network_ports": 8}
    lab.wish({H100: {**DRIVER_ONLY, **around}, V100: DRIVER_ONLY, L40S: cuda})
    done = lab.apply()
    assert done.status == 0, status(done)
    nodes = Nodes(fleet)
    with ThreadPoolExecutor() as pool:
        list(pool.map(nodes.prepare, (H100, L40S, V100)))
    return nodes


@pytest.fixture(scope="module")
def answers(nodes: Nodes) -> dict[tuple[str, int], HostResult]:
    """What each node said to each batch; the nodes go through theirs side by side."""
    with ThreadPoolExecutor() as pool:
        mine = pool.map(lambda node: (node, nodes.batches(node)), (H100, L40S, V100))
        return {(node, batch): found for node, each in mine for batch, found in each.items()}


def causes(result: HostResult) -> list[tuple[CheckResult, Finding]]:
    """Findings that are explained by no other check."""
    return [(check, one) for check in result.checks for one in check.findings if not one.because]


def named(node: str, finding: Finding) -> str:
    """A finding's component in the words of the matrix; a GPU is told by its UUID or its slot."""
    part = finding.component
    if part.kind != "gpu":
        return f"{part.kind} {part.name}".strip()
    for index, gpu in enumerate(describe(node, FLEETS["tests"][node])["gpus"]):
        if part.uuid == gpu["uuid"] and part.slot == gpu["slot"]:
            return f"gpu {index}"
    return f"gpu at {part.slot or '?'}"


def test_a_healthy_fleet_is_green_every_time(nodes: Nodes) -> None:
    with ThreadPoolExecutor(max_workers=3) as pool:
        results = list(pool.map(nodes.ask, [(H100, L40S, V100)[n % 3] for n in range(QUICK_RUNS)]))
    for result in results:
        assert [(check.id, one) for check in result.checks for one in check.findings] == []
        assert result.simulated
        assert result.expected_from == "lock"
    assert {len(result.gpus) for result in results} == {8, 2, 4}
    for result in results:
        assert "gpu.identity" in {check.id for check in result.checks}


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.check} {row.fault}")
def test_a_fault_is_found_by_its_check_at_its_part(
    answers: dict[tuple[str, int], HostResult], row: Row
) -> None:
    result = answers[row.node, row.batch]
    mine = [one for check, one in causes(result) if check.id == row.check]
    _told(row, result, mine)
    assert mine, f"{row.check} is green: {[check.id for check, _ in causes(result)]}"
    parts = {named(row.node, one) for one in mine}
    assert len(parts) >= len(row.parts)
    assert all(any(part.startswith(wanted) for wanted in row.parts) for part in parts), parts
    assert {one.verdict for one in mine} == {row.verdict}
    assert all(one.found and (one.expected or one.verdict == "hung") for one in mine)


def _told(row: Row, result: HostResult, mine: list[Finding]) -> None:
    """A line for the fault table: what is asserted of this row, and of its batch beside it."""
    parts = sorted({named(row.node, one) for one in mine})
    good = bool(mine) and all(any(one.startswith(p) for p in row.parts) for one in parts)
    good = good and {one.verdict for one in mine} == {row.verdict}
    wanted = {one.check for one in ROWS if (one.node, one.batch) == (row.node, row.batch)}
    good = good and {check.id for check, _ in causes(result)} == wanted
    first = mine[0] if mine else None
    seen(
        Seen(
            row.fault, row.level, row.check if mine else "", ", ".join(parts),
            first.verdict if first else "", first.action if first else "", result.seconds, good,
        )
    )  # fmt: skip


@pytest.mark.parametrize(("node", "batch"), sorted({(row.node, row.batch) for row in ROWS}))
def test_nothing_else_is_a_cause(
    answers: dict[tuple[str, int], HostResult], node: str, batch: int
) -> None:
    """Nor does any consequence name a cause that was not found."""
    result = answers[node, batch]
    wanted = {row.check for row in ROWS if (row.node, row.batch) == (node, batch)}
    assert {check.id for check, _ in causes(result)} == wanted
    found = {check.id for check in result.checks if check.findings}
    named = {one.because for check in result.checks for one in check.findings} - {""}
    assert named <= found


@pytest.mark.parametrize("node", [H100, L40S, V100])
def test_what_is_healed_is_green(answers: dict[tuple[str, int], HostResult], node: str) -> None:
    result = answers[node, 0]
    assert [(check.id, one) for check in result.checks for one in check.findings] == []


def test_from_outside_the_answer_is_the_same(nodes: Nodes, tmp_path: Path) -> None:
    nodes.fleet.root(V100, "rm -f /var/lib/gpufleet/verified.json").ok()
    with nodes.fleet.broken(V100, "nvml:2:ecc_uncorrected=1"):
        inside = nodes.ask(V100)
        file = tmp_path / "expected.json"
        file.write_text(json.dumps(nodes.expected[V100]))
        shared = f"-o ControlMaster=auto -o ControlPath={tmp_path}/%C -o ControlPersist=20"
        asked = [sys.executable, "-m", "pytest", "verify", f"--hosts=ssh://{V100}", "--sudo"]
        asked += ["--ssh-config", str(nodes.fleet.ssh_config), f"--ssh-extra-args={shared}"]
        asked += [
            "--expected",
            str(file),
            f"--junitxml={tmp_path}/out.xml",
            "-p",
            "no:cacheprovider",
        ]
        ran = subprocess.run(
            asked, cwd=paths.REPOSITORY, capture_output=True, text=True, timeout=120
        )
    assert ran.returncode == 1, ran.stdout + ran.stderr
    assert f"ssh://{V100}: expected state from {file}, stack {inside.stack}" in ran.stdout
    assert "gpu.ecc: fail: gpu Tesla V100-SXM2-32GB 2" in ran.stdout
    outcomes = {"failure": "failed", "error": "failed", "skipped": "skipped"}
    outside: dict[str, set[str]] = {"failed": set(), "skipped": set(), "passed": set()}
    for case in ET.parse(tmp_path / "out.xml").iter("testcase"):
        kinds = [outcomes[child.tag] for child in case if child.tag in outcomes]
        name = (case.get("classname") or "") + "." + (case.get("name") or "").partition("[")[0]
        outside[kinds[0] if kinds else "passed"].add(functions()[name])
    assert outside["passed"] == {one.id for one in inside.checks if one.verdict == "pass"}
    assert outside["failed"] == {one.id for one in inside.checks if one.verdict != "pass"}
    assert outside["skipped"] == {one.id for one in inside.not_asked}


def functions() -> dict[str, str]:
    """Names of the functions of checks as JUnit has them -> ids."""
    from importlib import import_module

    assert catalogue()
    found = {}
    for path in sorted((paths.REPOSITORY / "verify").glob("test_*.py")):
        module = import_module(f"verify.{path.stem}")
        for name, value in vars(module).items():
            if hasattr(value, "check"):
                found[f"verify.{path.stem}.{name}"] = value.check.id
    return found
