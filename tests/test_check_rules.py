"""What checks decide by: what is asked of a host, tables, and the forms of what they read."""

from __future__ import annotations

from typing import Any

import pytest

from tests import reported
from tests.broken import both, gpu, lost, said, silent, xid
from tests.reported import DRIVER, Host, ask, changed, scene
from tests.test_checks import CHECKS
from verify import own, xids
from verify.applies import NEEDS, applies
from verify.checks import Check, Look

# ---- what decides before a check


def test_a_higher_level_is_not_asked() -> None:
    check = Check("x.y", "Claim.", "standard", "keep", (), "source", "fault")
    answer = applies(check, scene())
    assert answer.kind == "not-asked"
    assert "standard" in answer.reason


def test_what_does_not_apply_goes_before_what_cannot_be_seen() -> None:
    """A V100 with a hung driver: rows to remap are still none of its business? It cannot be known:
    unknown never means that it does not apply."""
    hung = changed(scene("v100"), silent("hung"))
    check: Check = CHECKS["gpu.remap-pending"].check  # type: ignore[attr-defined]
    assert applies(check, hung).because == "nvml.answers"
    cpu = changed(hung, lambda parts: parts["expected"]["environment"].update(build="cpu"))
    check = CHECKS["torch.devices"].check  # type: ignore[attr-defined]
    assert applies(check, cpu).kind == "not-asked"


def test_a_busy_host_is_no_place_for_load_and_an_unknown_one_neither() -> None:
    jobs = said("report.holders.jobs", [{"id": "4711", "user": "trainer"}])
    busy = NEEDS["idle"](changed(scene(), jobs))
    assert busy.kind == "not-run"
    assert "job 4711 of trainer" in busy.reason
    users = changed(scene(), gpu("processes", [{"pid": 77, "mib": 500}], 2))
    assert "a process (pid 77) on GPU 2, by NVML's word" in NEEDS["idle"](users).reason
    unknown = both(said("report.holders.complete", False), said("report.holders.error", "EPERM"))
    answer = NEEDS["idle"](changed(scene(), unknown))
    assert answer.kind == "not-run"
    assert "EPERM" in answer.reason
    assert NEEDS["idle"](scene()).kind == "asked"


def test_without_an_expected_state_what_needs_one_is_not_asked_and_the_way_is_named() -> None:
    bare = scene(expected=None, expected_from="none", own=None)
    reason = ask(CHECKS["stack.packages"], bare, Host())
    assert isinstance(reason, str)
    assert "gpufleet adopt" in reason
    look = ask(CHECKS["env.works"], bare, Host())
    assert isinstance(look, Look)
    assert look.verdict == "pass"


def test_an_expected_state_that_cannot_be_used_is_a_finding_and_nothing_is_green_by_it() -> None:
    broken = scene(expected=None, expected_from="none", own=None, own_fault="no JSON")
    look = ask(CHECKS["stack.packages"], broken, Host())
    assert isinstance(look, Look)
    assert look.findings[0].because == "host.expected"
    assert isinstance(ask(CHECKS["host.expected"], broken, Host()), Look)


def test_a_host_that_lost_all_its_gpus_is_still_asked_for_them() -> None:
    empty = changed(scene(), both(said("report.pci.gpus", []), silent("failed", "No devices")))
    look = ask(CHECKS["gpu.count"], empty)
    assert isinstance(look, Look)
    assert len([one for one in look.findings if one.verdict == "fail"]) == 8


# ---- small things that decide much


@pytest.mark.parametrize(
    ("archs", "capability", "runs"),
    [
        (["sm_90"], (9, 0), True),
        (["sm_80"], (8, 9), True),  # the same major, an older minor
        (["sm_89"], (8, 0), False),  # a newer minor
        (["sm_80"], (9, 0), False),  # no machine code for another major
        (["compute_80"], (9, 0), True),  # PTX is compiled for it
        (["compute_120"], (9, 0), False),
        (["sm_90a"], (9, 0), True),
        (["sm_100a"], (10, 3), False),
        (["sm_100f"], (10, 3), True),
        (["sm_75", "sm_100", "compute_120"], (7, 0), False),
        (["sm_100"], (10, 0), True),
        (["nonsense", ""], (9, 0), False),
    ],
)
def test_code_for_a_compute_capability(
    archs: list[str], capability: tuple[int, int], runs: bool
) -> None:
    from verify.test_torch import covers

    assert covers(archs, capability) is runs


NAMED_IN_RESEARCH = {
    *(48, 56, 57, 58, 62, 63, 64, 65, 68, 69, 73, 74, 79, 80, 81, 92, 119, 120),
    *range(68, 78), *range(79, 87), 88, 89, *range(94, 106), *range(110, 121), *range(122, 126),
    *(54, 151, 168, 95, 109, 136, 140, 143, 155, 156, 158, 13, 31, 43, 94, 121, 126, 45, 154),
    *range(144, 151),
}  # fmt: skip
"""Verification 1.4 (Azure NHC's list, Imbue's ranges) and 1.12 (the action table)."""


def test_every_xid_that_peers_know_is_in_the_table() -> None:
    table = xids.table()
    # Azure's and Imbue's 78, 87 and 106 to 109 are not all named; those that are must be there.
    assert table.keys() >= NAMED_IN_RESEARCH
    for row in table.values():
        assert row["class"] in xids.CLASSES
        assert row["action"] in ("keep", "drain", "reset", "reboot", "service")
        assert row["meaning"]
        assert "20" in row["source"]
        assert row["class"] == "hardware" or row["action"] == "keep"
    applications = {id for id, row in table.items() if row["class"] == "application"}
    assert {13, 31, 43, 45} <= applications


@pytest.mark.parametrize("code", [13, 31, 43, 45, 63])
def test_an_applications_xid_is_looked_at_and_is_no_fault(code: int) -> None:
    look = ask(CHECKS["gpu.xid"], changed(scene(), xid(code)))
    assert isinstance(look, Look)
    assert look.verdict == "pass"
    assert any(f"Xid {code}" in one.what for one in look.observations)


def test_a_lost_gpu_that_says_nothing_of_itself_is_known_by_its_slot() -> None:
    nameless = changed(scene(), both(lost, gpu("slot", None)))
    look = ask(CHECKS["gpu.answers"], nameless)
    assert isinstance(look, Look)
    component = look.findings[0].component
    record = reported.record("hgx-h100")["gpus"][1]
    assert (component.index, component.uuid) == (1, record["uuid"])
    assert component.serial == record["serial"]


def test_the_expected_state_is_refused_with_every_fault_of_its_form() -> None:
    state = reported.expected("hgx-h100")
    assert own.faults(state) == []
    broken = {**state, "gpus": "8", "packages": {"x": 1}, "driver": {"version": 5}, "services": 1}
    assert len(own.faults(broken)) == 6
    assert own.faults({**state, "version": 2}) == ["its form has version 2, known is 1"]
    missing = {key: value for key, value in state.items() if key not in ("stack", "gpus")}
    assert own.faults(missing) == ["stack is missing"]


def test_the_hardware_that_a_lock_leaves_open_is_the_hosts_own() -> None:
    wanted = {**reported.expected("hgx-h100"), "gpus": None, "nvswitches": None}
    mine, record = reported.expected("hgx-h100"), reported.record("hgx-h100")
    assert own.filled(wanted, mine, None)["gpus"] == 8
    assert own.filled(wanted, None, record)["gpus"] == 8
    assert own.filled(wanted, None, None)["gpus"] is None
    assert own.filled({**wanted, "gpus": 7}, mine, record)["gpus"] == 7


def test_tables_of_apt_are_read_as_apt_prints_them() -> None:
    from verify.test_stack import main_repository, policies

    text = (
        "libnccl2:\n  Installed: 2.29.7-1+cuda13.0\n  Candidate: 2.99.1-1+other\n"
        "  Version table:\n     2.99.1-1+other 500\n"
        "        500 file:/var/lib/other ./ Packages\n"
        " *** 2.29.7-1+cuda13.0 500\n"
        "        500 http://10.77.0.1/cuda  Packages\n"
        "        100 /var/lib/dpkg/status\n"
        "libcuda1:amd64:\n  Installed: (none)\n  Candidate: (none)\n  Version table:\n"
    )
    tables = policies(text)
    assert tables["libnccl2"].offers["2.99.1-1+other"] == ["file:/var/lib/other"]
    assert tables["libnccl2"].offers["2.29.7-1+cuda13.0"] == ["http://10.77.0.1/cuda"]
    assert tables["libcuda1"].installed == ""
    assert main_repository(tables) == "http://10.77.0.1/cuda"


def test_a_host_that_expects_something_else_says_what() -> None:
    def drifted(parts: dict[str, Any]) -> None:
        parts["own"]["packages"]["libnvidia-ml1"] = "1-1"
        del parts["own"]["packages"]["nvidia-fabricmanager"]
        parts["own"]["host"] = "another name"

    look = ask(CHECKS["host.expected"], changed(scene(), drifted))
    assert isinstance(look, Look)
    (finding,) = look.findings
    assert finding.evidence == (
        f"packages.libnvidia-ml1: 1-1, locked is {DRIVER}-1",
        f"packages.nvidia-fabricmanager: nothing, locked is {DRIVER}-1",
    )
    assert "2 of its values differ" in finding.found
