"""Closures of packages inside one repository: exact, together, without what excludes each other."""

from typing import Any

import pytest

from deploy.solving.offers import (
    Available,
    Offer,
    Relation,
    Unsatisfied,
    compare,
    relations,
    upstream,
)
from tests import factory


def repository(*offers: Offer) -> Available:
    return Available(factory.repository(), list(offers))


def versions(found: dict[str, Offer]) -> dict[str, str]:
    return {name: offer.version for name, offer in found.items()}


def test_a_meta_with_open_versions_takes_the_family_not_the_newest() -> None:
    available = factory.available()
    found = available.closure(
        {"nvidia-open": "580.159.04-1", "nvidia-kernel-open-dkms": "580.159.04-1"}, "580.159.04"
    )
    assert len(found) > 8
    assert set(versions(found).values()) == {"580.159.04-1"}


def test_without_a_family_the_newest_is_taken() -> None:
    found = repository(
        Offer("meta", "1", depends="lib (>= 1)"), Offer("lib", "1"), Offer("lib", "3")
    ).closure({"meta": "1"})
    assert versions(found) == {"meta": "1", "lib": "3"}


def test_what_the_repository_does_not_name_is_left_to_the_distribution() -> None:
    found = repository(Offer("a", "1", depends="libc6 (>= 2.36), dkms | nothing")).closure(
        {"a": "1"}
    )
    assert set(found) == {"a"}


def test_a_chosen_alternative_is_enough() -> None:
    available = repository(
        Offer("a", "1", depends="closed (= 1) | kernel (= 1)"),
        Offer("closed", "1", provides="kernel (= 1)", conflicts="open"),
        Offer("open", "1", provides="kernel (= 1)", conflicts="closed"),
    )
    assert set(available.closure({"open": "1", "a": "1"})) == {"a", "open"}
    assert set(available.closure({"a": "1"})) == {"a", "closed"}


@pytest.mark.parametrize(
    ("offers", "roots", "said"),
    [
        ([], {"a": "1"}, "the repository has no a"),
        ([Offer("a", "2"), Offer("a", "3")], {"a": "1"}, "no a 1 (it has 3, 2)"),
        (
            [Offer("a", "1", depends="b (= 2)"), Offer("b", "1")],
            {"a": "1"},
            "a 1 needs b (= 2): the repository has no b (it has 1)",
        ),
        (
            [Offer("a", "1", depends="b (= 2)"), Offer("b", "1"), Offer("b", "2")],
            {"a": "1", "b": "1"},
            "a 1 needs b (= 2): b 1 is chosen already",
        ),
        (
            [Offer("a", "1", conflicts="b (<< 2)"), Offer("b", "1")],
            {"a": "1", "b": "1"},
            "a 1 conflicts with b 1",
        ),
        (
            [Offer("a", "1", conflicts="x"), Offer("b", "1", provides="x")],
            {"a": "1", "b": "1"},
            "a 1 conflicts with b 1",
        ),
    ],
)
def test_what_cannot_be_is_said(offers: list[Offer], roots: dict[str, str], said: str) -> None:
    available = repository(*offers)
    for _ in range(2):  # answers are remembered, refusals too
        with pytest.raises(Unsatisfied) as reason:
            available.closure(roots)
        assert said in str(reason.value)


def test_a_package_may_conflict_with_the_name_it_provides() -> None:
    available = repository(
        Offer("pin-1", "1", provides="pin", conflicts="pin"), Offer("pin-2", "1")
    )
    assert set(available.closure({"pin-1": "1", "pin-2": "1"})) == {"pin-1", "pin-2"}


@pytest.mark.parametrize(
    ("relation", "version", "allowed"),
    [
        (Relation("a", "=", "1-1"), "1-1", True),
        (Relation("a", ">=", "1.9"), "1.10", True),
        (Relation("a", "<<", "1:0.1"), "9", True),
        (Relation("a", ">>", "1"), "1~rc1", False),
        (Relation("a", "<=", "2"), "2+b1", False),
        (Relation("a", ">=", "1"), "", False),  # a name provided without a version
        (Relation("a"), "", True),
        (Relation("a", "<>", "1"), "1", False),
    ],
)
def test_relations(relation: Relation, version: str, allowed: bool) -> None:
    assert relation.allows(version) is allowed


def test_reading_relations() -> None:
    assert relations("a (>= 1), b | c:any (= 2)") == (
        (Relation("a", ">=", "1"),),
        (Relation("b"), Relation("c", "=", "2")),
    )
    assert relations("") == ()


@pytest.mark.parametrize(
    ("version", "number"),
    [
        ("580.178.04-1", "580.178.04"),
        ("1:4.5.2-1", "4.5.2"),
        ("2.29.7-1+cuda12.9", "2.29.7"),
        ("535.247.01-1~deb12u1", "535.247.01"),
        ("no version", ""),
    ],
)
def test_upstream(version: str, number: str) -> None:
    assert upstream(version) == number


@pytest.mark.parametrize(
    ("older", "newer"),
    [
        ("3:580.95.05-1.el9", "3:580.178.04-1.el9"),
        ("580.178.04-1.el9", "3:470.256.02-1.el9"),  # the epoch rules
        ("1.0~rc1-1", "1.0-1"),
        ("1.0-1", "1.0^git1-1"),
        ("1.0-1.el9", "1.0-2.el9"),
        ("1.a-1", "1.1-1"),  # rpm: digits are newer than letters; dpkg says otherwise
    ],
)
def test_rpms_order_of_versions(older: str, newer: str) -> None:
    assert compare(older, newer, "dnf") < 0
    assert compare(newer, older, "zypper") > 0
    assert compare(older, older, "dnf") == 0


def test_an_rpm_relation_without_a_release_fits_any() -> None:
    wanted = Relation("kmod", "=", "3:580.178.04")
    assert wanted.allows("3:580.178.04-1.el9", "dnf")
    assert wanted.allows("3:580.178.04-2.el9", "dnf")
    assert not wanted.allows("580.178.04-1.el9", "dnf")
    assert not wanted.allows("3:580.178.04-1.el9")  # dpkg knows no such thing
    assert Relation("kmod", ">=", "3:580.95").allows("3:580.178.04-1.el9", "dnf")


def rpms(*offers: Offer) -> Available:
    return Available(factory.repository(), offers, "dnf")


def test_an_rpm_closure_takes_the_epoch_of_its_own() -> None:
    found = rpms(
        Offer("driver", "3:580.178.04-1.el9", depends="libs (= 3:580.178.04), kmod (>= 3:580)"),
        Offer("libs", "3:580.178.04-1.el9"),
        Offer("libs", "3:595.91.07-1.el9"),
        Offer("kmod", "3:580.178.04-1.el9"),
        Offer("kmod", "3:595.91.07-1.el9"),
    ).closure({"driver": "3:580.178.04-1.el9"}, "580.178.04")
    assert set(versions(found).values()) == {"3:580.178.04-1.el9"}


def test_one_stream_is_looked_into_at_a_time() -> None:
    one, other = "nvidia-driver:580-open", "nvidia-driver:595-open"
    available = rpms(
        Offer("kmod", "3:580.178.04-1", stream=one, depends="libs"),
        Offer("libs", "3:580.178.04-1", stream=one),
        Offer("kmod", "3:595.91.07-1", stream=other),
        Offer("libs", "3:595.91.07-1", stream=other),
        Offer("cuda", "13.0-1"),
    )
    assert available.streams("nvidia-driver") == [one, other]
    part = available.of("vendor", one)
    assert part is available.of("vendor", one)
    assert part.versions("kmod") == ["3:580.178.04-1"]
    assert versions(part.closure({"kmod": "3:580.178.04-1"}))["libs"] == "3:580.178.04-1"
    assert part.versions("cuda") == ["13.0-1"]
    assert available.of("vendor").names() == ["cuda"]


def test_origins_are_apart() -> None:
    available = repository(
        Offer("driver", "580-1", depends="lib"),
        Offer("lib", "1"),
        Offer("lib", "9", origin="distribution"),
        Offer("own", "535-1", origin="distribution", size=7),
    )
    assert available.names() == ["driver", "lib"]
    assert versions(available.closure({"driver": "580-1"})) == {"driver": "580-1", "lib": "1"}
    own = available.of("distribution")
    assert own.names() == ["lib", "own"]
    assert available.known_version("own", "535-1")
    assert not available.known_version("own", "1")
    assert (available.size("own", "535-1"), available.size("own", "2")) == (7, 0)


@pytest.mark.parametrize(
    ("version", "branches"),
    [("580.178.04-1", {580}), ("3:595.91.07-1.el9", {595}), ("13.0.2-1", set()), ("x", set())],
)
def test_branches_of_what_is_offered(version: str, branches: set[int]) -> None:
    assert repository(Offer("a", version)).branches == branches


@pytest.mark.parametrize("packaging", ["apt", "dnf"])
def test_a_relation_to_what_is_no_version_fits_nothing(packaging: Any) -> None:
    assert not Relation("a", ">=", "x:1").allows("1-1", packaging)
