"""Votes among equal parts: a majority names the others, and without one all are named."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from tests.fleetwide import Change, fleet
from tests.verified import check, finding, part
from verify.judging.votes import Verdicts, fingerprints, versions
from verify.results import HostResult


def said(found: Mapping[str, Verdicts]) -> dict[str, list[tuple[Any, ...]]]:
    """Host -> verdict, action, GPU and what was found, of hosts with findings."""
    return {
        name: [(one.verdict, one.action, one.component.index, one.found) for one in each.findings]
        for name, each in found.items()
        if each.findings
    }


# ---- fingerprints


def printed(value: str, index: int) -> Change:
    def change(made: dict[str, Any]) -> None:
        made["prints"][index]["value"] = value

    return change


def test_equal_gpus_that_compute_the_same_are_green() -> None:
    found = fingerprints(fleet(3))
    assert said(found) == {}
    assert {each.looked_at for each in found.values()} == {8}


def test_the_gpu_that_computes_otherwise_is_named_by_the_majority_of_the_fleet() -> None:
    found = fingerprints(fleet(3, {2: [printed("abd", 5)]}))
    assert said(found) == {"gpu002": [("fail", "service", 5, "abd")]}
    (one,) = found["gpu002"].findings
    assert one.expected == "abc, as 23 of 24 equal ones"
    assert one.evidence[-1] == "others than abc: gpu002"


def test_without_a_majority_all_are_named_and_none_is_blamed() -> None:
    two = fleet(2, {1: [printed("abd", 0)]}, gpus=1)
    assert said(fingerprints(two)) == {
        "gpu001": [("degraded", "keep", 0, "abd")],
        "gpu002": [("degraded", "keep", 0, "abc")],
    }
    four = fleet(4, {1: [printed("abd", 0)], 2: [printed("abd", 0)]}, gpus=1)
    assert len(said(fingerprints(four))) == 4


def test_who_is_alone_is_not_asked_and_other_keys_are_others() -> None:
    found = fingerprints(fleet(1, gpus=1))["gpu001"]
    assert (found.findings, found.looked_at, found.alone) == ([], 0, 1)
    mixed = {**fleet(1, gpus=1), "other": fleet(1, gpus=1, model="NVIDIA H200")["gpu001"]}
    assert {each.alone for each in fingerprints(mixed).values()} == {1}


def test_a_gpu_that_says_two_things_has_computed_wrongly_once() -> None:
    def twice(made: dict[str, Any]) -> None:
        made["prints"].append({**made["prints"][4], "value": "abd"})

    found = fingerprints(fleet(2, {1: [twice]}))
    assert said(found) == {
        "gpu001": [("fail", "service", 4, "2 different results of one computation")]
    }


def test_what_the_host_itself_has_found_is_told_once() -> None:
    def known(made: dict[str, Any]) -> None:
        printed("abd", 5)(made)
        made["checks"].append(check("bench.agrees", finding(part(made["gpus"][5]))))

    (one,) = fingerprints(fleet(3, {2: [known]}))["gpu002"].findings
    assert one.because == "bench.agrees"


@settings(max_examples=60, deadline=None)
@given(some.lists(some.sampled_from("abc"), min_size=2, max_size=9), some.randoms())
def test_a_vote_does_not_depend_on_the_order_and_never_names_a_majority(
    values: list[str], chance: Any
) -> None:
    results = fleet(
        len(values), {n: [printed(value, 0)] for n, value in enumerate(values, 1)}, gpus=1
    )
    names = list(results)
    chance.shuffle(names)
    found = said(fingerprints(results))
    assert found == said(fingerprints({name: results[name] for name in names}))
    most = max(values, key=values.count)
    majority = 2 * values.count(most) > len(values)
    wrong = [name for name, value in zip(results, values, strict=True) if value != most]
    if len(set(values)) == 1:
        assert found == {}
    elif majority:
        assert set(found) == set(wrong)
        assert {each[0][0] for each in found.values()} == {"fail"}
    else:
        assert set(found) == set(results)
        assert {each[0][0] for each in found.values()} == {"degraded"}


# ---- versions


def board(key: str, value: str, index: int) -> Change:
    def change(made: dict[str, Any]) -> None:
        made["gpus"][index]["board"][key] = value

    return change


def runs(key: str, value: str) -> Change:
    def change(made: dict[str, Any]) -> None:
        made["software"][key] = value

    return change


@pytest.mark.parametrize("key", ["vbios", "gsp", "inforom_image"])
def test_a_gpu_with_other_firmware_is_named_with_what_the_others_have(key: str) -> None:
    assert said(versions(fleet(2))) == {}
    found = versions(fleet(2, {2: [board(key, "96.00.01", 6)]}))
    assert said(found) == {"gpu002": [("degraded", "keep", 6, "96.00.01")]}
    (one,) = found["gpu002"].findings
    assert one.expected.endswith(", as 15 of 16 equal ones")


@pytest.mark.parametrize(("key", "kind"), [("driver", "driver"), ("torch", "environment")])
def test_a_host_with_another_driver_or_torch_is_named(key: str, kind: str) -> None:
    found = versions(fleet(3, {2: [runs(key, "1.0")]}))
    assert list(said(found)) == ["gpu002"]
    (one,) = found["gpu002"].findings
    assert (one.component.kind, one.found, one.verdict) == (kind, "1.0", "degraded")


def test_hosts_that_the_lock_wants_apart_are_not_held_against_each_other() -> None:
    def locked(made: dict[str, Any]) -> None:
        runs("driver", "550.54.15")(made)
        made["stack"] = "another"

    assert said(versions(fleet(3, {2: [locked]}))) == {}


def test_boards_of_other_makers_have_other_firmware() -> None:
    def other(made: dict[str, Any]) -> None:
        for one in made["gpus"]:
            one["board"] |= {"board_part": "692-2G520", "vbios": "96.00.AA"}

    assert said(versions(fleet(3, {2: [other]}))) == {}


def test_two_hosts_that_differ_are_both_named() -> None:
    found = versions(fleet(2, {2: [runs("driver", "1.0")]}))
    assert set(said(found)) == {"gpu001", "gpu002"}
    assert "there is no majority" in found["gpu001"].findings[0].expected


def test_one_gpu_alone_and_a_host_without_any_have_nothing_to_be_held_against() -> None:
    found = versions(fleet(1, gpus=1))["gpu001"]
    assert (found.findings, found.looked_at) == ([], 0)
    assert found.alone
    none: dict[str, HostResult] = fleet(2, gpus=0)
    assert {(each.looked_at, each.alone) for each in versions(none).values()} == {(0, 0)}
