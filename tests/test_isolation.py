"""Group testing: exactly the bad hosts and links are named, in few tests, on no single failure."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from verify.multi.rounds import Found, Group, isolate, round_robin, sized


class World:
    """Hosts of which some, and some links, are bad; `flaky` ones fail with that chance."""

    def __init__(
        self,
        count: int,
        bad: Sequence[int] = (),
        links: Sequence[tuple[int, int]] = (),
        flaky: Sequence[int] = (),
        chance: float = 0.5,
        seed: int = 0,
    ) -> None:
        self.hosts = [f"n{at:03}" for at in range(count)]
        self.bad = {self.hosts[at] for at in bad}
        self.links = {Group({self.hosts[a], self.hosts[b]}) for a, b in links}
        self.flaky, self.chance = {self.hosts[at] for at in flaky}, chance
        self.random = random.Random(seed)
        self.rounds: list[list[Group]] = []

    def __call__(self, groups: Sequence[Group]) -> list[bool]:
        together = [one for group in groups for one in group]
        assert len(together) == len(set(together)), "a host in two tests at a time"
        assert all(len(group) >= 2 for group in groups), "nobody trains across one host"
        assert groups
        self.rounds.append(list(groups))
        return [self.passes(group) for group in groups]

    def passes(self, group: Group) -> bool:
        if group & self.bad or any(link <= group for link in self.links):
            return False
        return not any(self.random.random() < self.chance for _ in group & self.flaky)

    def found(self) -> Found:
        found = isolate(self.hosts, self)
        assert found.rounds == len(self.rounds)
        assert found.tests == sum(map(len, self.rounds))
        return found


def test_a_healthy_fleet_takes_one_test() -> None:
    found = World(64).found()
    assert found.clean
    assert found.proven
    assert (found.tests, found.rounds) == (1, 1)


@pytest.mark.parametrize("count", [3, 4, 5, 8, 16, 33, 64])
def test_a_bad_host_is_named_wherever_it_is(count: int) -> None:
    for at in range(count):
        world = World(count, bad=[at])
        found = world.found()
        assert found.hosts == world.bad
        assert not found.links
        assert not found.unconfirmed
        assert found.proven
        failing = [one for tests in world.rounds for one in tests if world.bad <= one]
        assert len({one for one in failing if len(one) == 2}) >= 2, "named on one pair"


@pytest.mark.parametrize("count", [3, 4, 5, 8, 13])
def test_a_bad_link_is_named_wherever_it_is(count: int) -> None:
    for a in range(count):
        for b in range(a):
            world = World(count, links=[(a, b)])
            found = world.found()
            assert found.links == world.links, (a, b)
            assert not found.hosts
            assert found.proven


def test_two_that_fail_together_cannot_be_told_apart() -> None:
    found = World(2, bad=[0]).found()
    assert found.nobody_good
    assert not found.hosts
    assert World(2, links=[(0, 1)]).found().nobody_good


@pytest.mark.parametrize("count", [3, 8, 64])
def test_when_all_are_bad_nobody_is_named_and_the_search_ends(count: int) -> None:
    found = World(count, bad=range(count)).found()
    assert found.nobody_good
    assert not found.hosts
    assert found.rounds <= 25


def test_fewer_than_two_hosts_are_refused() -> None:
    with pytest.raises(ValueError, match="two hosts"):
        isolate(["n1"], World(1))


@st.composite
def worlds(draw: st.DrawFn) -> World:
    """Up to a quarter bad hosts, and links of which no two share an end and none has a bad one."""
    count = draw(st.integers(6, 80))
    order = draw(st.permutations(range(count)))
    bad = draw(st.integers(0, count // 4))
    pairs = draw(st.integers(0, min(3, (count - bad - 2) // 2)))
    ends = order[bad:]
    return World(count, order[:bad], [(ends[2 * at], ends[2 * at + 1]) for at in range(pairs)])


@settings(max_examples=250, deadline=None)
@given(worlds())
def test_exactly_what_is_bad_is_named(world: World) -> None:
    found = world.found()
    assert found.hosts == world.bad
    assert found.links == world.links
    assert not found.unconfirmed
    assert not found.nobody_good
    assert found.proven


@settings(max_examples=250, deadline=None)
@given(
    count=st.integers(4, 60),
    at=st.integers(0, 3),
    bad=st.booleans(),
    chance=st.sampled_from([0.1, 0.3, 0.5, 0.9]),
    seed=st.integers(0, 10_000),
)
def test_one_that_fails_now_and_then_never_costs_another_its_name(
    count: int, at: int, bad: bool, chance: float, seed: int
) -> None:
    """Every link and set named holds it; no other host but the bad one is ever named."""
    last = [count - 1] if bad and count > 5 else []
    world = World(count, bad=last, flaky=[at], chance=chance, seed=seed)
    found = world.found()
    assert found.hosts <= world.flaky | world.bad
    assert all(one & (world.flaky | world.bad) for one in found.links | found.unconfirmed)


def test_a_host_with_two_bad_links_is_named_itself_or_by_its_links() -> None:
    for seed in range(20):
        chosen = random.Random(seed).sample(range(20), 3)
        found = World(20, links=[(chosen[0], chosen[1]), (chosen[0], chosen[2])]).found()
        assert found.hosts | set().union(*found.links) >= {f"n{chosen[0]:03}"}
        assert found.hosts <= {f"n{chosen[0]:03}"}


@pytest.mark.parametrize(("count", "bad"), [(232, 1), (232, 4), (512, 1), (512, 4)])
def test_it_takes_few_tests_and_few_rounds(count: int, bad: int) -> None:
    """All pairs would be 26,796 tests for 232 hosts, and 130,816 for 512."""
    for seed in range(10):
        world = World(count, bad=random.Random(seed).sample(range(count), bad))
        found = world.found()
        assert found.hosts == world.bad
        assert found.rounds <= 7
        assert found.tests <= (bad + 1) * (count**0.5 + 1) + 2 * bad + 3


def test_every_pair_meets_once_in_rounds_of_half_as_many() -> None:
    for count in (2, 3, 8, 9):
        hosts = [str(at) for at in range(count)]
        rounds = round_robin(hosts)
        pairs = [pair for one in rounds for pair in one]
        assert len(pairs) == len(set(pairs)) == count * (count - 1) // 2
        assert all(len(set().union(*one)) == 2 * len(one) for one in rounds)


@pytest.mark.parametrize("count", [2, 3, 4, 5, 8, 100, 512])
def test_no_group_is_of_fewer_than_two(count: int) -> None:
    groups = sized([str(at) for at in range(count)])
    assert sum(map(len, groups)) == count
    assert min(map(len, groups)) >= 2
