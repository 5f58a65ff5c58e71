"""verify on real nodes: green, hung, dead, busy, tampered with; its record and its exit codes.

One GPU host with an environment, one without, one host without GPUs; a fourth that is dead. They
are brought to their stacks once.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.fleet.live import LiveFleet, Result
from tests.fleet.test_apply import DRIVER_ONLY, Lab

LIVING = ("cpu-01", "h100-01", "v100-01")
BUNDLES = "/opt/gpufleet/bundle"


class Verified:
    """One run of verify, as its run directory has it."""

    def __init__(self, said: Result, place: Path) -> None:
        self.said, self.status, self.place = said, said.status, place
        self.run: dict[str, Any] = json.loads((place / "run.json").read_text())
        self.hosts: dict[str, dict[str, Any]] = {
            path.stem: json.loads(path.read_text()) for path in (place / "hosts").iterdir()
        }
        journal = (place / "journal.jsonl").read_text().splitlines()
        self.events: list[dict[str, Any]] = [json.loads(line) for line in journal]

    def ended(self) -> list[str]:
        """Hosts in the order in which they were done."""
        return [event["host"] for event in self.events if event["event"] == "host-ended"]

    def verdicts(self) -> dict[str, str]:
        return {name: one["verdict"] for name, one in self.hosts.items()}

    def findings(self, host: str) -> dict[str, dict[str, Any]]:
        """Check -> its first cause on a host."""
        found: dict[str, dict[str, Any]] = {}
        for check in self.hosts[host]["result"]["checks"]:
            for one in check["findings"]:
                if not one["because"]:
                    found.setdefault(check["id"], one)
        return found


def verify(lab: Lab, *words: str) -> Verified:
    said = lab.gpufleet("verify", "lab.py", *words, timeout=500)
    assert said.status in {0, 1, 4}, said.err
    return Verified(said, lab.runs()[-1])


@pytest.fixture(scope="module")
def lab(fleet: LiveFleet, tmp_path_factory: pytest.TempPathFactory) -> Lab:
    nodes: dict[str, dict[str, Any]] = {
        "h100-01": DRIVER_ONLY,
        "v100-01": {**DRIVER_ONLY, "torch": "2.13.0", "torch_build": "cpu"},
        "cpu-01": DRIVER_ONLY,
        "l40s-01": DRIVER_ONLY,
    }
    lab = Lab(fleet, tmp_path_factory.mktemp("verify"), nodes)
    lab.apply("--limit", ",".join(LIVING)).ok()
    return lab


@pytest.fixture(scope="module")
def first(lab: Lab) -> Verified:
    """The first verify of these hosts ever."""
    return verify(lab, "--limit", ",".join(LIVING), "--json", "out.json")


def test_converged_hosts_are_green_and_the_record_is_whole(first: Verified, lab: Lab) -> None:
    assert first.status == 0, first.said.out
    assert first.verdicts() == dict.fromkeys(LIVING, "pass")
    assert first.run["hosts"] == dict.fromkeys(LIVING, "pass")
    assert (first.run["exit"], first.run["state"]) == (0, "finished")
    assert first.run["lock"], "it says which lock it was held against"
    assert sorted(first.ended()) == sorted(LIVING)
    for name in LIVING:
        result = first.hosts[name]["result"]
        assert result["user"] == "root"
        assert result["simulated"] is True
        assert result["expected_from"] == "lock"
        assert first.hosts[name]["notes"] == ["the bundle was pushed"]
    held = {check["id"] for check in first.hosts["v100-01"]["result"]["checks"]}
    assert {"gpu.count", "driver.version", "stack.packages", "env.works"} <= held
    document = json.loads((lab.folder / "out.json").read_text())
    assert document["exit"] == 0
    page = (first.place / "report.html").read_text()
    assert all(name in page for name in LIVING)
    assert "SIMULATED HARDWARE" in first.said.out


def test_the_second_run_pushes_nothing_and_leaves_nothing(first: Verified, lab: Lab) -> None:
    again = verify(lab, "--limit", "v100-01", "--check", "gpu.count", "--check", "host.disk")
    assert (again.status, again.verdicts()) == (0, {"v100-01": "pass"})
    assert again.hosts["v100-01"]["notes"] == []
    result = again.hosts["v100-01"]["result"]
    assert [one["id"] for one in result["checks"]] == ["gpu.count", "host.disk"]
    bundle = f"{BUNDLES}/{result['bundle']}"
    looked = f"ls -A {BUNDLES}; stat -c '%U %a' {bundle}; find {bundle} -name '*.pyc' | wc -l"
    assert lab.fleet.ssh("v100-01", looked).out.split() == [result["bundle"], "root", "755", "0"]


def test_a_gpu_with_other_firmware_is_named_and_can_be_waived(first: Verified, lab: Lab) -> None:
    """Judged on the controller over all GPUs that are alike; the waiver is the inventory's."""
    inventory = lab.folder / "lab.py"
    before = inventory.read_text()
    with lab.fleet.broken("h100-01", "nvml:2:vbios=96.00.99.00.99"):
        found = verify(lab, "--limit", "h100-01")
        waiver = {"check": "fleet.versions", "gpu": "2", "owner": "ops", "reason": "4711"}
        spec = {"waivers": [{**waiver, "until": "2999-12-31"}]}
        namespace: dict[str, Any] = {}
        exec(before, namespace)
        hosts = [(name, {**data, **spec}) for name, data in namespace["gpus"]]
        inventory.write_text(f"gpus = {hosts!r}\n")
        try:
            waived = verify(lab, "--limit", "h100-01", "--strict")
        finally:
            inventory.write_text(before)
    assert found.verdicts() == {"h100-01": "degraded"}
    (one,) = found.findings("h100-01").values()
    assert (one["component"]["index"], one["found"]) == (2, "96.00.99.00.99")
    assert one["expected"].endswith(", as 7 of 8 equal ones")
    assert waived.status == 0, waived.said.out
    assert waived.hosts["h100-01"]["message"] == "1 waived finding"
    assert "waived by ops until 2999-12-31: 4711" in waived.said.out


def test_what_hangs_and_what_is_dead_cost_only_themselves(first: Verified, lab: Lab) -> None:
    with lab.fleet.broken("h100-01", "nvml-hang"), lab.fleet.broken("l40s-01", "unreachable"):
        found = verify(lab)
    assert found.status == 1
    assert found.verdicts() == {
        "cpu-01": "pass",
        "v100-01": "pass",
        "h100-01": "hung",
        "l40s-01": "unreachable",
    }
    hung = found.findings("h100-01")
    assert set(hung) == {"nvml.answers"}, "one cause, whatever it hides"
    assert hung["nvml.answers"]["verdict"] == "hung"
    assert found.ended().index("cpu-01") < found.ended().index("h100-01"), "it waited for nobody"
    assert found.hosts["l40s-01"]["message"].startswith("l40s-01: no SSH server there")
    # The order of what to do: what hangs before what is unknown.
    assert found.said.out.index("nvml.answers") < found.said.out.index("host.reachable")


def test_a_bundle_that_was_changed_is_said_and_not_run(first: Verified, lab: Lab) -> None:
    spoil = f"for file in {BUNDLES}/*/verify/onhost.py; do echo 'raise SystemExit(0)' >$file; done"
    lab.fleet.root("v100-01", spoil).ok()
    found = verify(lab, "--limit", "v100-01", "--check", "gpu.count")
    assert (found.status, found.verdicts()) == (4, {"v100-01": "not-run"})
    assert "verify/onhost.py has other content" in found.said.out.replace("\n", " ")
    again = verify(lab, "--limit", "v100-01", "--check", "gpu.count")
    assert (again.status, again.verdicts()) == (0, {"v100-01": "pass"})


def test_a_host_without_a_python_is_not_run(first: Verified, lab: Lab) -> None:
    lab.fleet.root("cpu-01", "mv /usr/bin/python3 /usr/bin/python3.11 /root").ok()
    try:
        found = verify(lab, "--limit", "cpu-01,v100-01", "--check", "host.disk")
    finally:
        lab.fleet.root("cpu-01", "mv /root/python3 /root/python3.11 /usr/bin").ok()
    assert found.status == 4
    assert found.verdicts() == {"cpu-01": "not-run", "v100-01": "pass"}
    assert "cpu-01: no Python >= 3.10 there: " in found.hosts["cpu-01"]["message"]


def test_a_busy_host_is_not_loaded(first: Verified, lab: Lab) -> None:
    with lab.fleet.broken("v100-01", "busy"):
        found = verify(lab, "--level", "standard", "--limit", "v100-01", "--check", "train.ended")
        quick = verify(lab, "--limit", "v100-01", "--check", "gpu.count")
    assert (found.status, found.verdicts()) == (4, {"v100-01": "not-run"})
    why = found.findings("v100-01")["train.ended"]["found"]
    assert why.startswith("busy: ")
    assert "of trainer" in why
    assert "(pid " in why
    assert (quick.status, quick.verdicts()) == (0, {"v100-01": "pass"})


def test_without_sudo_the_login_user_looks_and_it_is_said(first: Verified, lab: Lab) -> None:
    lab.fleet.root("cpu-01", "mv /etc/sudoers.d /root/sudoers.d").ok()
    try:
        found = verify(lab, "--limit", "cpu-01", "--check", "host.disk")
    finally:
        lab.fleet.root("cpu-01", "mv /root/sudoers.d /etc/sudoers.d").ok()
    assert found.hosts["cpu-01"]["result"]["user"] == "ops"
    pushed, note = found.hosts["cpu-01"]["notes"]
    assert pushed == "the bundle was pushed"
    assert note.startswith("the checks ran as ops, not as root (sudo: ")
