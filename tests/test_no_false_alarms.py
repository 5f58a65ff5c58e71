"""What is as it was made, wished or used is no finding: boards, links, limits, logs."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from tests.broken import both, gpu, said
from tests.broken_gpu import CHANGED, every, held, links, sxid, told
from tests.reported import changed, request, scene
from tests.reported import links as healthy_links
from tests.test_checks import CHECKS
from verify.applies import Scene, applies
from verify.checks import Look
from verify.payload import kernel_log
from verify.test_nvlink import by_design
from verify.thresholds import value

Change = Callable[[dict[str, Any]], None]


def look_of(id: str, of: Scene, informed: list[str] | None = None) -> Look:
    from tests.reported import host

    check = CHECKS[id]
    assert applies(check.check, of).kind == "asked"  # type: ignore[attr-defined]
    look = Look(check.check)  # type: ignore[attr-defined]
    given = {
        "scene": of,
        "gpus": of.report["nvml"]["gpus"],
        "host": host(of),
        "look": look,
        "threshold": lambda name: value(name, of.asked["thresholds"]),
        "inform": (informed if informed is not None else []).append,
    }
    names = check.__code__.co_varnames[: check.__code__.co_argcount]
    check(**{name: given[name] for name in names})
    return look


def boards(name: str, up: list[int], count: int, switches: bool = False) -> Change:
    """As many GPUs of a product as there are numbers of links that are up."""

    def change(parts: dict[str, Any]) -> None:
        report = parts["report"]
        report["nvml"]["gpus"] = report["nvml"]["gpus"][: len(up)]
        if not switches:
            report["pci"]["nvswitches"] = []
            parts["expected"].update(nvswitches=0, fabric=None)
        for one, number in zip(report["nvml"]["gpus"], up, strict=True):
            one["name"], one["nvlinks"] = name, healthy_links(count)
            one["nvlinks"].update(up=number, down=list(range(number, count)))

    return change


@pytest.mark.parametrize(
    ("name", "up", "count", "switches", "seen"),
    [
        ("NVIDIA H100 NVL", [12, 12], 18, False, "pass"),  # Azure azurehpc-health-checks 162
        ("NVIDIA H100 NVL", [12, 8], 18, False, "fail"),
        ("NVIDIA H100 NVL", [12, 12, 0, 0], 18, False, "pass"),  # one pair has no bridge
        ("NVIDIA A100 80GB PCIe", [0, 0, 0, 0], 12, False, "pass"),  # NVSentinel PR 1481
        ("NVIDIA A100 80GB PCIe", [4, 4], 12, False, "fail"),  # one of three bridges
        ("NVIDIA H200 NVL", [18, 18], 18, False, "pass"),
        ("NVIDIA H200", [18] * 7 + [17], 18, True, "fail"),
        ("NVIDIA H100 80GB HBM3", [0], 18, False, "pass"),  # one GPU of a board, in a virtual host
        ("NVIDIA H100 80GB HBM3", [18] * 8, 18, True, "pass"),
        ("NVIDIA H100 80GB HBM3", [16] * 8, 16, True, "fail"),  # NVML itself lists two too few
        ("NVIDIA H100 80GB HBM3", [0] * 8, 18, True, "fail"),  # gpud 1085
        ("NVIDIA A100-SXM4-40GB", [12] * 4, 12, False, "pass"),
        ("NVIDIA A100-SXM4-40GB", [0] * 4, 12, False, "fail"),
        ("Tesla V100-SXM2-16GB", [4] * 4, 6, False, "pass"),  # a baseboard wires what it wires
        ("Tesla V100-SXM2-16GB", [4, 4, 3, 4], 6, False, "fail"),
    ],
)
def test_links_missing_by_design_are_no_fault(
    name: str, up: list[int], count: int, switches: bool, seen: str
) -> None:
    informed: list[str] = []
    look = look_of("gpu.nvlink", changed(scene(), boards(name, up, count, switches)), informed)
    assert look.verdict == seen, look.findings
    assert len(informed) == (up.count(0) if seen == "pass" else 0)


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("NVIDIA H100 NVL", 12),
        ("NVIDIA H100 80GB HBM3", 18),
        ("NVIDIA A100-SXM4-80GB", 12),
        ("Tesla V100-SXM2-32GB", 6),
        ("NVIDIA B200", 18),
        ("NVIDIA L40S", None),
    ],
)
def test_links_of_products(name: str, count: int | None) -> None:
    assert by_design(name) == count


CUT = both(gpu("mig", True), links(0), said("expected.mig", ["3g.40gb"]))
CLEARED = f"{CHANGED}1 (GPU Reset Required)"
NO_FAULT: list[tuple[str, Change]] = [
    ("gpu.nvlink", CUT),
    ("gpu.leaked", both(CUT, gpu("memory.used_mib", 900))),
    ("gpu.pcie-gen", both(gpu("pcie.gen_max", 4), gpu("bus.port_gen_max", 4))),
    ("gpu.pcie-gen", gpu("pcie.gen", 1)),
    ("gpu.pcie-errors", gpu("bus.aer.nonfatal", {"UnsupReq": 12})),
    ("gpu.pcie-errors", gpu("bus.aer.nonfatal", {"Unsupported Request": 12})),
    ("gpu.pcie-errors", gpu("bus.aer.correctable", {"RxErr": 10**6})),
    ("gpu.pcie-errors", gpu("pcie.replays", 4800)),
    ("gpu.pcie-errors", both(gpu("pcie.replays", 8), said("report.nvml.uptime_s", 5.0))),
    ("gpu.nvlink-errors", gpu("nvlinks.errors.crc_flit", {"0": 3_600_000})),
    ("gpu.nvlink-errors", gpu("nvlinks.errors.crc_data", None)),
    ("gpu.sram", gpu("sram.uncorrected_ever", 4)),
    ("gpu.temperature", gpu("heat.gpu", 84)),
    ("gpu.temperature", both(gpu("heat.slowdown", None), gpu("heat.margin", 3))),
    ("gpu.clocks", gpu("clocks.reasons", 0x4)),
    ("gpu.clocks", gpu("clocks.reasons", 0x113)),
    ("gpu.power", gpu("power.enforced", 800.0)),
    ("gpu.power", both(every(lambda index: gpu("power.enforced", 500.0, index)),
                       said("expected.power_limit", 500))),
    ("gpu.leaked", gpu("memory.used_mib", 15)),
    ("gpu.leaked", both(gpu("memory.used_mib", 70_000), gpu("processes", [{"pid": 9, "mib": 1}]))),
    ("gpu.leaked", both(gpu("memory.used_mib", 70_000), held(False))),
    ("gpu.leaked", held(True, [{"id": "4711", "user": "trainer"}])),
    ("gpu.xid", told(154, CLEARED)),
    ("gpu.xid", told(154, "NVRM: Xid (PCI:0000:2a:00): 154, GPU recovery action changed from 0x1 "
                          "(GPU Reset Required) to 0x0 (None)")),
    ("gpu.sxid", sxid(11012, False)),
    ("gpu.sxid", sxid(22013, False)),
    ("fabric.health", gpu("fabric.health", 0x0AA)),
]  # fmt: skip


@pytest.mark.parametrize(("id", "change"), NO_FAULT)
def test_what_is_as_it_should_be_is_no_finding(id: str, change: Change) -> None:
    look = look_of(id, changed(scene(), change))
    assert look.verdict == "pass", look.findings


def test_a_slot_that_is_slower_than_its_card_is_told_and_no_fault() -> None:
    informed: list[str] = []
    slow = both(gpu("pcie.gen_max", 4), gpu("bus.port_gen_max", 4))
    look_of("gpu.pcie-gen", changed(scene(), slow), informed)
    assert informed == ["GPU 1 is made for PCIe generation 5, its slot for 4"]


def test_a_site_has_its_own_thresholds() -> None:
    many = gpu("nvlinks.errors.replay", {"0": 5})
    of = scene(asked=request(thresholds={"gpu.nvlink-replays": 5}))
    assert look_of("gpu.nvlink-errors", changed(of, many)).verdict == "pass"
    assert look_of("gpu.nvlink-errors", changed(scene(), many)).verdict == "degraded"


@pytest.mark.parametrize(
    ("id", "change"),
    [
        ("gpu.recovery", every(lambda index: gpu("recovery_action", None, index))),
        ("fabric.health", every(lambda i: both(gpu("fabric.health", None, i),
                                               gpu("fabric.summary", None, i)))),
        ("fabric.health", every(lambda i: both(gpu("fabric.health", 0, i),
                                               gpu("fabric.summary", 0, i)))),
        ("gpu.sram", every(lambda index: gpu("sram", None, index))),
        ("gpu.leaked", every(lambda index: gpu("memory", None, index))),
    ],
    ids=range(5),
)  # fmt: skip
def test_what_a_driver_is_too_old_to_tell_is_not_asked(id: str, change: Change) -> None:
    check = CHECKS[id].check  # type: ignore[attr-defined]
    answer = applies(check, changed(scene(), change))
    assert answer.kind == "not-asked"
    assert answer.reason


# ---- lines of NVSwitches


def entry(message: object, seconds: int = 1) -> str:
    return json.dumps({"MESSAGE": message, "__REALTIME_TIMESTAMP": str(seconds * 10**6)})


SWITCH = "nvidia-nvswitch3: SXid (PCI:0000:c4:00.0)"


def test_sxids_are_read_with_their_severity_and_not_twice() -> None:
    lines = [  # the newest first, as journalctl -r has them
        entry(f"{SWITCH}: 20034, Data {{0x50610002, 0x10100030}}", 4),
        entry(f"{SWITCH}: 20034, Fatal, Link 30 LTSSM Fault Up", 3),
        entry(f"{SWITCH}: 12028, Non-fatal, Link 32 egress non-posted PRIV error (First)", 2),
        entry("NVRM: Xid (PCI:0000:c4:00): 79, GPU has fallen off the bus.", 1),
    ]
    found = kernel_log.sxids("\n".join(lines))
    assert [(one["code"], one["fatal"]) for one in found] == [(12028, False), (20034, True)]
    assert found[0]["slot"] == "0000:c4:00.0"
    (xid,) = kernel_log.xids("\n".join(lines))
    assert xid["code"] == 79


def test_an_sxid_of_unknown_severity_is_kept() -> None:
    (one,) = kernel_log.sxids(entry(f"{SWITCH}: 99999, Data {{0x1}}"))
    assert (one["code"], one["fatal"]) == (99999, None)


@pytest.mark.parametrize(
    "line", ["", "{", "[]", '{"MESSAGE":"SXid (PCI:x): 1"}', entry([83, 88, 999]), entry(None)]
)
def test_hostile_lines_are_no_events(line: str) -> None:
    assert kernel_log.sxids(line) == []
    assert kernel_log.sxids("\n".join([entry(f"{SWITCH}: 1, Fatal")] * 2000 + [line]))
