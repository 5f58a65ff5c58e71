"""Figures judged by physics, neighbours and history: every claim of the fleet in both colours."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

import pytest

from tests.fleetwide import Change, fleet, slowed
from tests.verified import check, finding
from verify import thresholds
from verify.checks import Check
from verify.judging.claims import CLAIMS
from verify.judging.figure import COLLECTIVES, COMPUTE, LINK, MEMORY, PEER, TRAINING, Figure
from verify.judging.whole import Again, Whole, needed
from verify.results import CheckResult, HostResult, NotAsked

WANTED = frozenset(one.id for one in CLAIMS)
BY_ID: dict[str, Check] = {one.id: one for one in CLAIMS}


def margin(host: str, figure: Figure) -> float:
    return thresholds.value(f"{figure.claim}-percent", {}) / 100


def whole(results: Mapping[str, HostResult]) -> Whole:
    return Whole(results, WANTED, margin)


def judged(
    results: Mapping[str, HostResult], again: Mapping[str, Again] | None = None
) -> dict[str, dict[str, CheckResult | NotAsked]]:
    """Host -> check -> what it came to; suspects measure the same again unless told otherwise."""
    every = whole(results)
    if again is None:
        again = {name: Again(results[name]) for name in every.suspects()}
    found = {}
    for name, result in every.judged(again).items():
        found[name] = {
            one.id: one for one in (*result.checks, *result.not_asked) if one.id in WANTED
        }
    return found


def findings(one: CheckResult | NotAsked) -> tuple[Any, ...]:
    assert isinstance(one, CheckResult), one
    return one.findings


def test_a_sound_fleet_is_green_in_every_claim() -> None:
    for seed in range(3):
        for checks in judged(fleet(6, seed=seed)).values():
            assert checks.keys() == WANTED
            for one in checks.values():
                assert isinstance(one, CheckResult), one
                assert (one.verdict, one.findings) == ("pass", ()), one
                assert one.looked_at


RED: dict[str, tuple[Change, str, str]] = {
    COMPUTE: (slowed("bench.matmul", 2 / 3, 3), "gpu 3", "drain"),
    MEMORY: (slowed("bench.copy", 2 / 3, 3), "gpu 3", "drain"),
    LINK: (slowed("bench.device-to-host", 0.5, 3, **{"with": "alone"}), "gpu 3", "drain"),
    PEER: (slowed("bench.peer", 0.5, 3), "gpu 3", "drain"),
    COLLECTIVES: (slowed("bench.all-reduce", 2 / 3), "host None", "drain"),
    TRAINING: (slowed("train.transformer", 2 / 3, 3), "gpu 3", "drain"),
}


@pytest.mark.parametrize("id", RED)
def test_a_slow_part_is_named_by_its_claim_alone(id: str) -> None:
    change, part, action = RED[id]
    found = judged(fleet(6, {2: [change]}, seed=7))
    for name, checks in found.items():
        for claim, one in checks.items():
            if (name, claim) != ("gpu002", id):
                assert not findings(one), (name, claim)
    (one,) = findings(found["gpu002"][id])
    assert f"{one.component.kind} {one.component.index}" == part
    assert (one.verdict, one.action) == ("fail", action)
    assert one.baseline in ("physics", "neighbours")
    assert one.expected.startswith("at least ")
    assert any("of the median of" in line for line in one.others)
    assert "measured again: " in one.evidence[0]


def test_every_claim_of_the_fleet_about_speed_has_its_red_case() -> None:
    assert RED.keys() == {id for id in WANTED if id.startswith("perf.")} - {"perf.fingerprint"}
    assert all(BY_ID[id].fault.startswith("offline: ") for id in RED)


# ---- disagreement, and what it comes to


def with_past(factor: float = 1.0, **software: str) -> Change:
    """The host kept figures of its last good run: all `factor` times those of now."""

    def change(made: dict[str, Any]) -> None:
        then = json.loads(json.dumps(made["measurements"]))
        for one in then:
            one["value"] *= factor
        made["past"] = {
            "time": "2026-10-01T12:00:00Z",
            "machine": "0123",
            "stack": made["stack"],
            "software": {**made["software"], **software},
            "measurements": then,
        }

    return change


def of(results: Mapping[str, HostResult], claim: str, name: str = "gpu002") -> Any:
    (one,) = findings(judged(results)[name][claim])
    return one


def test_slower_than_its_neighbours_and_as_fast_as_ever_is_degraded() -> None:
    slow = slowed("bench.matmul", 0.85, 3)
    one = of(fleet(4, {2: [slow, with_past()]}), COMPUTE)
    assert (one.verdict, one.baseline, one.action) == ("degraded", "neighbours", "keep")
    assert "neighbours: -15% of the median of 32 (740 TFLOPS)" in one.others
    assert "physics: fine (>= 593.4 TFLOPS)" in one.others
    assert "history: fine (+0% of 629 TFLOPS on 2026-10-01)" in one.others


def test_slower_than_ever_on_the_same_stack_is_a_fault_where_nobody_contradicts() -> None:
    alone = fleet(1, {1: [with_past(1.3)]}, gpus=2)
    checks = judged(alone)["gpu001"]
    assert {found.verdict for found in findings(checks[MEMORY])} == {"fail"}
    assert {found.baseline for found in findings(checks[MEMORY])} == {"history"}
    # All of a fleet lost as much: its neighbours are no measure of it any more, and contradict.
    every = fleet(4, {number: [with_past(1.3)] for number in (1, 2, 3, 4)})
    for checks in judged(every).values():
        assert {found.verdict for found in findings(checks[COMPUTE])} == {"degraded"}


def test_what_an_upgrade_took_stands_beside_the_software_s_difference() -> None:
    change = with_past(1 / 0.79, driver="550.54.15")
    results = fleet(1, {1: [change]})
    one = of(results, COLLECTIVES, "gpu001")
    assert (one.verdict, one.action, one.baseline) == ("degraded", "keep", "history")
    assert "driver 550.54.15 -> 580.95.05: -21% of 589.9 GB/s on 2026-10-01" in one.others[0]
    told = whole(results).judged({})["gpu001"]
    assert told.information[0].startswith(
        "beside its last good run of 2026-10-01 (driver 550.54.15 -> 580.95.05): "
        "bench.all-reduce -21.0%, bench.copy -21.0%, "
    )
    assert told.past is not None
    assert told.past.measurements == ()


def test_faster_than_before_is_told_and_no_finding() -> None:
    results = fleet(4, {2: [with_past(0.5)]})
    assert not findings(judged(results)["gpu002"][COMPUTE])
    assert "bench.copy +100.0%" in whole(results).judged({})["gpu002"].information[0]


def test_much_faster_than_its_equals_is_another_clock_or_another_part() -> None:
    one = of(fleet(4, {2: [slowed("bench.triad", 1.13, 3)]}, seed=1), MEMORY)
    assert (one.verdict, one.action, one.baseline) == ("degraded", "keep", "neighbours")
    assert one.expected.startswith("at most ")


def test_faster_than_the_hardware_can_be_is_no_measurement() -> None:
    one = of(fleet(4, {2: [slowed("bench.matmul", 2, 3, dtype="bf16")]}), COMPUTE)
    assert (one.verdict, one.baseline) == ("not-run", "physics")
    assert "16896 cores x 32 x 1980 MHz gives 1071 TFLOPS" in one.others[0]


def test_half_of_a_fleet_at_half_speed_is_never_a_pass() -> None:
    """No majority tells the two halves apart: the floor finds the slow one, and without a floor
    nothing is known of either."""
    half = {number: [slowed("bench.matmul", 0.5)] for number in (1, 2)}
    by_floor = judged(fleet(4, half))
    assert {found.verdict for found in findings(by_floor["gpu001"][COMPUTE])} == {"fail"}
    assert {found.verdict for found in findings(by_floor["gpu004"][COMPUTE])} == {"not-run"}
    without = judged(fleet(4, half, model="NVIDIA Z1"))
    for name in ("gpu001", "gpu004"):
        seen = findings(without[name][COMPUTE])
        assert {found.verdict for found in seen} == {"not-run"}
        assert "differ too much to judge by" in seen[0].others[0]


# ---- measured a second time


def test_a_suspicion_that_a_second_measurement_does_not_share_is_degraded() -> None:
    results = fleet(4, {2: [slowed("bench.matmul", 0.5, 3)]})
    every = whole(results)
    assert every.suspects() == {"gpu002": frozenset({"bench.ended", "bench.copies"})}
    second = {"gpu002": Again(fleet(4)["gpu002"])}
    (one,) = findings(judged(results, second)["gpu002"][COMPUTE])
    assert (one.verdict, one.action) == ("degraded", "keep")
    assert one.found == "350 TFLOPS (unstable: measured again 700 TFLOPS)"


@pytest.mark.parametrize(
    "second", [Again(None, "gpu002: no TCP connection"), Again(fleet(1, gpus=1)["gpu001"])]
)
def test_a_suspicion_that_cannot_be_measured_again_is_no_fault_and_no_pass(second: Again) -> None:
    results = fleet(4, {2: [slowed("bench.matmul", 0.5, 3)]})
    (one,) = findings(judged(results, {"gpu002": second})["gpu002"][COMPUTE])
    assert one.verdict == "not-run"
    assert "suspected, and not measured again: " in one.found


def test_what_only_training_measures_is_asked_of_training_alone() -> None:
    results = fleet(4, {2: [slowed("train.transformer", 0.5, 3)]})
    assert whole(results).suspects() == {"gpu002": frozenset({"train.ended"})}
    assert needed({TRAINING}, ["train.ended", "bench.x", "gpu.ecc"]) == {"train.ended"}
    assert needed({"fleet.versions"}, ["nvml.answers", "gpu.ecc"]) == {"nvml.answers"}


# ---- what is missing, and what is bad


def without(names: Iterable[str], index: int | None = None) -> Change:
    def change(made: dict[str, Any]) -> None:
        made["measurements"] = [
            one
            for one in made["measurements"]
            if one["name"] not in names
            or (index is not None and one["component"].get("index") != index)
        ]

    return change


def test_a_figure_that_was_asked_for_and_is_not_there_is_not_run() -> None:
    found = judged(fleet(4, {2: [without(["bench.matmul"], 3)], 3: [without(["bench.matmul"])]}))
    (one,) = findings(found["gpu002"][COMPUTE])
    assert (one.verdict, one.component.index) == ("not-run", 3)
    (one,) = findings(found["gpu003"][COMPUTE])
    assert (one.verdict, one.component.kind, one.because) == ("not-run", "host", "")


def test_a_missing_figure_names_the_check_that_should_have_taken_it() -> None:
    def ended(made: dict[str, Any]) -> None:
        without(["bench.matmul"])(made)
        made["checks"] = [one for one in made["checks"] if one["id"] != "bench.ended"]
        made["checks"].append(check("bench.ended", finding()))

    (one,) = findings(judged(fleet(4, {2: [ended]}))["gpu002"][COMPUTE])
    assert (one.verdict, one.because) == ("not-run", "bench.ended")


def test_figures_that_were_not_asked_for_are_not_judged_and_say_why() -> None:
    def busy(made: dict[str, Any]) -> None:
        made["measurements"] = []
        made["checks"] = [one for one in made["checks"] if one["id"].startswith("gpu.")]
        made["not_asked"] = [{"id": "bench.ended", "reason": "no environment is expected"}]

    one = judged(fleet(4, {2: [busy]}))["gpu002"][COMPUTE]
    assert isinstance(one, NotAsked)
    assert one.reason == "no environment is expected"


def test_a_first_run_without_equals_and_without_a_floor_is_not_asked() -> None:
    one = judged(fleet(1, gpus=2, model="NVIDIA Z1"))["gpu001"][COMPUTE]
    assert isinstance(one, NotAsked)
    assert one.reason == (
        "no floor is known for bench.matmul on NVIDIA Z1, 2 of the 4 equal figures that make a "
        "middle are here, and no earlier good run is kept"
    )


def test_links_that_differ_too_much_are_no_measure_and_it_is_said() -> None:
    """Where a GPU is on its board decides how it shares the way to the host."""

    def shared(factor: float) -> Change:
        def change(made: dict[str, Any]) -> None:
            without(["bench.device-to-host"])(made)
            made["measurements"] = [
                one for one in made["measurements"] if one["conditions"].get("with") != "alone"
            ]
            slowed("bench.host-to-device", factor)(made)

        return change

    made = fleet(4, {n: [shared(1 / 2**n)] for n in (1, 2, 3, 4)}, gpus=1)
    one = judged(made)["gpu001"][LINK]
    assert isinstance(one, NotAsked)
    assert "the 4 equal figures of this run differ too much to judge by" in one.reason


BAD: dict[str, dict[str, Any]] = {
    "zero": {"value": 0.0},
    "negative": {"value": -700.0},
    "beyond all measure": {"value": 1.7e308},
    "another unit": {"unit": "GFLOPS"},
}


@pytest.mark.parametrize("name", BAD)
def test_a_figure_that_cannot_be_one_is_not_run(name: str) -> None:
    def spoil(made: dict[str, Any]) -> None:
        made["measurements"][0].update(BAD[name])

    found = judged(fleet(4, {2: [spoil]}))
    (one,) = findings(found["gpu002"][COMPUTE])
    assert (one.verdict, one.component.index) == ("not-run", 0)
    assert not findings(found["gpu001"][COMPUTE])


def test_a_figure_given_twice_is_none() -> None:
    def twice(made: dict[str, Any]) -> None:
        made["measurements"].append({**made["measurements"][0], "value": 900.0})

    (one,) = findings(judged(fleet(4, {2: [twice]}))["gpu002"][COMPUTE])
    assert (one.verdict, one.found) == ("not-run", "it is given 2 times")


def test_hosts_that_do_not_answer_leave_the_others_judged() -> None:
    results = fleet(5, {2: [slowed("bench.matmul", 0.5, 3)]}, seed=3)
    del results["gpu004"]
    assert findings(judged(results)["gpu002"][COMPUTE])


def test_a_quick_run_is_asked_for_versions_alone() -> None:
    results = fleet(2)
    quick = {name: one.model_copy(update={"level": "quick"}) for name, one in results.items()}
    found = judged(quick)["gpu001"]
    asked = {id for id, one in found.items() if isinstance(one, CheckResult)}
    assert asked == {"fleet.versions"}


def test_on_a_cpu_speeds_are_told_and_not_judged() -> None:
    def cpu(made: dict[str, Any]) -> None:
        for one in made["measurements"]:
            one["conditions"]["device"] = "cpu"
        without(["bench.peer", "bench.all-reduce"])(made)

    made = fleet(3, {1: [cpu], 2: [cpu], 3: [cpu, slowed("bench.matmul", 0.1), with_past(2)]})
    for checks in judged(made).values():
        for claim in (COMPUTE, MEMORY, LINK, TRAINING):
            one = checks[claim]
            assert isinstance(one, NotAsked)
            assert one.reason.endswith("whose cores others share: told and not judged")
        assert isinstance(checks[PEER], NotAsked)
    (line,) = whole(made).judged({})["gpu003"].information
    assert "bench.matmul -50.0%" in line


def test_small_messages_are_told_and_not_judged() -> None:
    def small(made: dict[str, Any]) -> None:
        for one in made["measurements"]:
            if one["name"] == "bench.all-reduce":
                one["conditions"]["bytes"] = "1048576"
                one["value"] = 40.0

    every = {n: [small] for n in (1, 2, 3, 4)}
    every[2] = [small, slowed("bench.all-reduce", 0.5)]
    one = judged(fleet(4, every))["gpu002"][COLLECTIVES]
    assert isinstance(one, NotAsked)
    assert one.reason == "messages of 1 MiB tell of latency: told and not judged"


def test_a_bad_link_names_the_gpu_that_all_bad_pairs_share() -> None:
    def link(made: dict[str, Any]) -> None:
        for one in made["measurements"]:
            ends = (str(one["component"].get("index")), one["conditions"].get("to"))
            if one["name"] == "bench.peer" and "5" in ends:
                one["value"] *= 0.4

    (one,) = findings(judged(fleet(4, {2: [link]}))["gpu002"][PEER])
    assert (one.component.index, one.verdict) == (5, "fail")
    assert len(one.evidence) == 12
    assert one.evidence[-1].endswith("more figures")
