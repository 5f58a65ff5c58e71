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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests import reported
from tests.fleet.live import LiveFleet
from tests.fleet.test_apply import DRIVER_ONLY, Lab, status
from tests.sim import paths
from tests.sim.profiles import FLEETS, describe
from verify.bundle import bundle
from verify.report.catalogue import catalogue
from verify.results import CheckResult, Finding, HostResult

pytestmark = pytest.mark.fleet

H100, L40S, V100 = "h100-01", "l40s-01", "v100-01"
ROOT = "/opt/gpufleet/bundle/matrix"
"""Where users without rights may read it, as the environment is imported by one."""
QUICK_RUNS = 20
DAEMON = "service nvidia-persistenced"


@dataclass(frozen=True)
class Row:
    """One fault, the check that claims to find it, and the parts of the node that it must name."""

    check: str
    fault: str
    node: str
    batch: int
    """Faults of one batch are there together."""
    parts: tuple[str, ...]
    """kind and index or name of the components that are the cause."""
    verdict: str = "fail"


MATRIX = [
    Row("gpu.answers", "gpu-lost:1", H100, 1, ("gpu 1",)),
    Row("gpu.identity", "nvml:2:serial=9999999999999", H100, 1, ("gpu 2",), "degraded"),
    Row("gpu.ecc", "nvml:3:ecc_uncorrected=3", H100, 1, ("gpu 3",)),
    Row("gpu.remap-pending", "nvml:4:remap_pending=1", H100, 1, ("gpu 4",)),
    Row("gpu.remap-failed", "nvml:5:remap_failed=1", H100, 1, ("gpu 5",)),
    Row("gpu.pcie-width", "pcie-width:6:8", H100, 1, ("gpu 6",), "degraded"),
    Row("gpu.xid", "xid:7:48", H100, 1, ("gpu 7",)),
    Row("gpu.mig", "mig:0", H100, 1, ("gpu 0",), "degraded"),
    Row("host.self-name", "no-self-name", H100, 1, ("host h100-01",)),
    Row("driver.nouveau", "nouveau", H100, 1, ("driver nouveau",)),
    Row("fabric.manager", "fabric-stopped", H100, 2, ("service nvidia-fabricmanager",)),
    Row("gpu.count", "gpu-absent:1", H100, 2, ("gpu 1",)),
    Row("host.expected", "expected-drift", H100, 2, ("host",), "degraded"),
    Row("driver.flavour", "wrong-flavour", H100, 2, ("driver nvidia",)),
    Row("nvml.answers", "nvml-hang", H100, 3, ("driver NVML",), "hung"),
    Row("torch.libraries", "library-in-front", L40S, 1, ("library lib",)),
    Row("torch.arch-list", "arch-list", L40S, 1, ("gpu 0", "gpu 1")),
    Row("torch.devices", "fewer-devices", L40S, 1, ("gpu 1",)),
    Row("env.wheels", "wheel-version", L40S, 1, ("wheel numpy",)),
    Row("stack.packages", "package-version", L40S, 1, ("package libcudnn9",)),
    Row("stack.origin", "second-origin", L40S, 1, ("package libnccl2",), "degraded"),
    Row("host.disk", "tmp-full", L40S, 1, ("disk /tmp",)),
    Row("env.works", "env-broken", L40S, 2, ("environment",)),
    Row("env.pip-check", "pip-check", L40S, 3, ("environment",)),
    Row("gpu.retired-pages", "nvml:1:retired_pending=1", V100, 1, ("gpu 1",)),
    Row(
        "gpu.persistence", "persistence-off", V100, 1, ("service nvidia-persistenced",), "degraded"
    ),
    Row("driver.next-boot", "next-kernel", V100, 1, ("driver nvidia for",)),
    Row("driver.version", "stale-module", V100, 2, ("driver nvidia",)),
    # what the same checks claim besides
    Row("gpu.answers", "foreign-vfio:2", V100, 3, ("gpu 2",)),
    Row("driver.next-boot", "reboot-required", V100, 3, ("package libc6",), "degraded"),
]
"""Every check but those of training (test_training) and of reaching a host (test_verify)."""

HARMLESS = {(V100, 3): ("xid:0:31",)}
"""Node and batch -> what is there as well and is no fault of a host: a program that went wrong."""


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
        for number in sorted({row.batch for row in MATRIX if row.node == node}):
            rows = [row.fault for row in MATRIX if (row.node, row.batch) == (node, number)]
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
    lab.wish({H100: DRIVER_ONLY, V100: DRIVER_ONLY, L40S: cuda})
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


@pytest.mark.parametrize("row", MATRIX, ids=lambda row: f"{row.check} {row.fault}")
def test_a_fault_is_found_by_its_check_at_its_part(
    answers: dict[tuple[str, int], HostResult], row: Row
) -> None:
    result = answers[row.node, row.batch]
    mine = [one for check, one in causes(result) if check.id == row.check]
    assert mine, f"{row.check} is green: {[check.id for check, _ in causes(result)]}"
    parts = {named(row.node, one) for one in mine}
    assert len(parts) >= len(row.parts)
    assert all(any(part.startswith(wanted) for wanted in row.parts) for part in parts), parts
    assert {one.verdict for one in mine} == {row.verdict}
    assert all(one.found and (one.expected or one.verdict == "hung") for one in mine)


@pytest.mark.parametrize(("node", "batch"), sorted({(row.node, row.batch) for row in MATRIX}))
def test_nothing_else_is_a_cause(
    answers: dict[tuple[str, int], HostResult], node: str, batch: int
) -> None:
    """Nor does any consequence name a cause that was not found."""
    result = answers[node, batch]
    wanted = {row.check for row in MATRIX if (row.node, row.batch) == (node, batch)}
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
