"""The 17 checks of the best-known tools that cannot fail (research: verification 1.14), row by row:
in exactly that situation ours turns red, or says that nothing was seen, and is never a pass."""

from __future__ import annotations

import subprocess
import types
from collections.abc import Callable
from typing import Any

import pytest

from deploy.fleet import exits
from tests.answers import BUNDLE, KNOWN, QUICK, answer, checked, finding, printed, request
from tests.benched import benched, stopped
from tests.broken import both, gone, gpu, no_fabric, said, silent
from tests.broken_bench import set_in
from tests.fleetwide import fleet, slowed
from tests.reported import ask, changed, host, scene
from tests.test_bench import GPUS
from tests.test_bench import Asked as Benched
from tests.test_bench import read as bench_of
from tests.test_checks import CHECKS
from tests.test_judging_perf import judged
from verify import conftest
from verify.answer import read
from verify.checks import Check, Look
from verify.judge import exit_code, judge
from verify.judging.figure import COLLECTIVES, COMPUTE, MEMORY
from verify.judging.neighbours import spread
from verify.payload import host_report, kernel_log
from verify.runner import Answer

Change = Callable[[dict[str, Any]], None]


def asked(id: str, change: Change, hardware: str = "hgx-h100") -> Look:
    """One check of one host."""
    look = ask(CHECKS[id], changed(scene(hardware), change))
    assert isinstance(look, Look), look
    return look


def verdict(id: str, change: Change, hardware: str = "hgx-h100") -> str:
    return asked(id, change, hardware).verdict


@pytest.mark.parametrize(("rows", "seen"), [(512, "pass"), (513, "fail"), (10**9, "fail")])
def test_row_1_exhausted_spare_rows_are_read_and_compared(rows: int, seen: str) -> None:
    """Azure NHC reads a column that its query does not have: its limit of 512 never fires."""
    assert verdict("gpu.remap-failed", gpu("remap.uncorrected", rows)) == seen


@pytest.mark.parametrize("errors", [1, 20_000_000])
def test_row_2_one_uncorrectable_error_is_one_too_many(errors: int) -> None:
    """Azure NHC holds uncorrectable errors against the limit for corrected ones, 20,000,000."""
    assert verdict("gpu.ecc", gpu("ecc.uncorrected", errors)) == "fail"
    assert verdict("gpu.ecc", gpu("ecc.corrected", 20_000_000)) == "pass"


@pytest.mark.parametrize("beside", [0x0, 0x1, 0x2, 0x4, 0x10, 0x100, 0x117])
@pytest.mark.parametrize("bit", [0x8, 0x20, 0x40, 0x80])
def test_row_3_a_reason_is_a_bit_whatever_stands_beside_it(bit: int, beside: int) -> None:
    """Azure NHC compares the mask by equality, and then only logs."""
    assert verdict("gpu.clocks", gpu("clocks.reasons", bit | beside)) != "pass"
    assert verdict("gpu.clocks", gpu("clocks.reasons", beside)) == "pass"


def test_row_4_a_slow_collective_is_a_finding_and_no_note() -> None:
    """AWS's NCCL thresholds lie above what the hardware can do, so that it warns and passes."""
    found = judged(fleet(4, {2: [slowed("bench.all-reduce", 0.4)]}))
    assert found["gpu002"][COLLECTIVES].verdict == "fail"  # type: ignore[union-attr]
    assert found["gpu001"][COLLECTIVES].verdict == "pass"  # type: ignore[union-attr]


def test_row_5_a_tenth_of_the_bandwidth_is_below_every_expectation() -> None:
    """DCGM's floor of one A100 lacks a digit: ours is a part of clock x bus, and of neighbours."""
    found = judged(fleet(4, {2: [slowed("bench.copy", 0.1), slowed("bench.triad", 0.1)]}))
    assert found["gpu002"][MEMORY].verdict == "fail"  # type: ignore[union-attr]


def test_row_6_copies_are_validated_bit_by_bit() -> None:
    """DCGM's nvbandwidth plugin reports figures and validates nothing."""
    broken = benched(GPUS)
    set_in("ranks/3/copies/wrong", 1)(broken)
    assert Benched(bench_of(broken)).causes == {"bench.copies": {3}}


def result_of(*checks: dict[str, Any]) -> Any:
    text = printed(answer(*checks))
    return read(text, request(), BUNDLE, asked=set(QUICK), known=set(KNOWN))


def test_row_7_a_faulty_gpu_is_in_the_exit_code_and_a_failed_start_is_no_ok() -> None:
    """gpu-burn ends with 0 beside FAULTY GPUs, and prints OK where it could not start."""
    bad = judge(Answer("gpu1", result_of(checked("gpu.count", finding("fail", "drain")))))
    assert exit_code([bad], strict=False) == exits.FAILED
    unseen = judge(Answer("gpu1", result_of(checked("gpu.count", finding("not-run", "keep")))))
    assert exit_code([unseen], strict=False) == exits.NOT_LOOKED_AT
    dead = silent("failed", "Driver Not Loaded (NVML error 9)")
    assert verdict("nvml.answers", dead) == "fail"
    assert {verdict(id, dead) for id in ("gpu.ecc", "gpu.xid", "gpu.count", "gpu.nvlink")} <= {
        *("not-run", "pass")
    }
    assert verdict("gpu.ecc", dead) == "not-run"


def call(function: Callable[[], None]) -> Any:
    """A phase of a check as pytest tells it: what it raised."""
    try:
        function()
    except Exception as error:
        return types.SimpleNamespace(when="call", excinfo=types.SimpleNamespace(value=error))
    return types.SimpleNamespace(when="call", excinfo=None)


def settled(function: Callable[[], None]) -> Look:
    check: Check = CHECKS["gpu.ecc"].check  # type: ignore[attr-defined]
    one = conftest.Asked(check, Look(check))
    conftest.settle(one, call(function))
    return one.look


def test_row_8_a_check_that_asserts_nothing_did_not_run() -> None:
    """ml-engineering's torch-distributed-gpu-test prints its sum and asserts nothing."""
    look = settled(lambda: None)
    assert look.verdict == "not-run"
    assert look.findings[0].found == "it looked at nothing"


OF_ONE_GPU: dict[str, tuple[str, object]] = {
    "gpu.ecc": ("ecc.uncorrected", 1),
    "gpu.sram": ("sram.threshold_exceeded", True),
    "gpu.remap-pending": ("remap.pending", True),
    "gpu.remap-failed": ("remap.failed", True),
    "gpu.recovery": ("recovery_action", 2),
    "gpu.clocks": ("clocks.reasons", 8),
    "gpu.temperature": ("heat.gpu", 95),
    "gpu.power": ("power.enforced", 300.0),
    "gpu.pcie-width": ("pcie.width", 8),
    "gpu.pcie-gen": ("pcie.gen_max", 3),
    "gpu.pcie-errors": ("bus.aer.fatal", {"DLP": 1}),
    "gpu.nvlink": ("nvlinks.up", 17),
    "gpu.nvlink-errors": ("nvlinks.errors.recovery", {"0": 1}),
    "fabric.health": ("fabric.health", 0x19A),
    "gpu.compute-mode": ("compute_mode", 2),
    "gpu.leaked": ("memory.used_mib", 4096),
    "gpu.persistence": ("persistence", False),
    "gpu.mig": ("mig", True),
}
"""Check -> a value of one GPU that turns it red."""


@pytest.mark.parametrize("index", range(8))
@pytest.mark.parametrize("id", OF_ONE_GPU)
def test_row_9_one_bad_gpu_is_found_wherever_it_stands(id: str, index: int) -> None:
    """gpu-tester keeps the status of a node's last GPU: GPU 3 bad and GPU 7 good is a success."""
    path, value = OF_ONE_GPU[id]
    look = asked(id, gpu(path, value, index))
    assert look.verdict != "pass"
    assert {one.component.index for one in look.findings} == {index}


def test_row_10_seven_of_eight_gpus_are_no_other_platform() -> None:
    """Nebius' scripts call 7 GPUs an unsupported platform and end with 0; so does a checker that
    errs."""
    assert verdict("gpu.count", gone) == "fail"
    unnamed = changed(scene(), gone)
    assert isinstance(look := ask(CHECKS["gpu.identity"], unnamed), Look)
    assert look.verdict == "not-run"

    def errs() -> None:
        raise RuntimeError("status ERROR")

    assert settled(errs).verdict == "not-run"


def test_row_11_a_failed_remap_is_an_issue_and_a_timeout_has_its_reason(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """OCI's failed remap sets an action and no issue; its handlers of a timeout raise NameError."""
    (one,) = asked("gpu.remap-failed", gpu("remap.failed", True)).findings
    assert (one.verdict, one.action) == ("fail", "service")

    def late(*command: str, **_: object) -> Any:
        raise subprocess.TimeoutExpired(command, 6)

    monkeypatch.setattr(kernel_log, "tool", late)
    log = kernel_log.log()
    assert (log["readable"], log["error"]) == (False, "journalctl had not ended after 6 s")
    assert verdict("gpu.xid", said("report.log", log)) == "not-run"
    assert verdict("gpu.sxid", said("report.log", log)) == "not-run"


@pytest.mark.parametrize(
    "out", [b"", b"GPUFLEET {", b"GPUFLEET {}\nGPUFLEET {}\n", b"Segmentation fault\n", b"\xff\xfe"]
)
def test_row_12_what_cannot_be_parsed_is_no_warning(out: bytes) -> None:
    """GCM's check-dcgmi calls a failed command and unreadable output a warning, off is OK."""
    child: Any = types.SimpleNamespace(out=out, err=b"", rc=0, hung=False, stage="", seconds=10.0)
    child.document = lambda: {"seconds": 0.1}
    nvml = host_report.of_payload("nvml", child)
    assert nvml["state"] == "failed"
    assert nvml["error"]
    assert verdict("nvml.answers", said("report.nvml", nvml)) == "fail"
    for id in OF_ONE_GPU:
        assert verdict(id, said("report.nvml", nvml)) == "not-run", id


UNREAD = {
    **{id: path for id, (path, _) in OF_ONE_GPU.items() if not path.startswith("bus")},
    "gpu.sram": "sram",
    "gpu.remap-pending": "remap",
    "gpu.remap-failed": "remap",
    "gpu.nvlink": "nvlinks",
    "gpu.nvlink-errors": "nvlinks",
    "fabric.health": "fabric",
    "gpu.leaked": "memory.used_mib",
    "gpu.pcie-errors": "pcie.replays",
}


@pytest.mark.parametrize("id", UNREAD)
def test_row_13_a_missing_value_certifies_nothing(id: str) -> None:
    """CRE certified nodes without a measurement of bandwidth."""
    path = UNREAD[id]
    change = both(gpu(path, None), gpu("errors", {path: "Unknown Error (NVML error 999)"}))
    if id == "gpu.pcie-width":
        change = both(change, said("report.pci.gpus.1.width", None))
    assert verdict(id, change) == "not-run"


def test_row_13_a_missing_figure_certifies_nothing() -> None:
    def without(made: dict[str, Any]) -> None:
        kept = [one for one in made["measurements"] if one["name"] != "bench.matmul"]
        made["measurements"] = kept

    found = judged(fleet(4, {2: [without]}))
    assert found["gpu002"][COMPUTE].verdict == "not-run"  # type: ignore[union-attr]


def test_row_14_a_middle_holds_against_one_that_is_off_on_either_side() -> None:
    """SuperBench trims one side around a mean, and returns one number for all once one is given."""
    good = [100.0, 101.0, 99.0, 100.5]
    for odd in (1.0, 10_000.0):
        found = spread([*good, odd], 0.05)
        assert found is not None
        assert 99.0 <= found.middle <= 101.0
        assert abs(found.off(odd)) > found.margin
    assert spread(good[:3], 0.05) is None, "too few to say anything, and no single number"


def test_row_15_a_stopped_fabric_manager_is_found_while_every_gpu_is_healthy() -> None:
    """NVSentinel: the fabric manager was down for 20 days, and DCGM saw healthy GPUs."""
    of = scene()
    there = host(of)
    no_fabric(there)
    look = ask(CHECKS["fabric.manager"], of, there)
    assert isinstance(look, Look)
    assert (look.verdict, look.findings[0].component.kind) == ("fail", "service")


def test_row_16_memory_that_cannot_be_had_is_no_pass() -> None:
    """DCGM's memory test passes after an error of allocation."""
    broken = benched(GPUS)
    stopped(broken["ranks"][1], "memory", state="died", code=1)
    found = Benched(bench_of(broken))
    assert found.causes["bench.ended"] == {1}
    assert found.looks["bench.products"].verdict != "pass"


@pytest.mark.parametrize(
    "error", [NameError("gpu_index"), KeyError("index"), TypeError(), UnboundLocalError("e")]
)
def test_row_17_a_check_that_breaks_says_so_and_takes_no_other_along(error: Exception) -> None:
    """Imbue's check calls a helper by a name that it does not have, and reports nothing at all."""

    def breaks() -> None:
        raise error

    (one,) = settled(breaks).findings
    assert one.verdict == "not-run"
    assert type(error).__name__ in one.found
