"""How much work a fleet is: equal hosts are solved once, however many there are."""

from math import lcm
from typing import Any

import pytest

from deploy import solve
from deploy.catalog import load
from deploy.solve import Case, _shared, choose_all
from tests.bench.solve import BOARDS, PLACES, WISHES, fleet, solves
from tests.factory import TODAY

ROUND = lcm(len(PLACES), 3 * len(BOARDS), 2 * len(WISHES))
"""From here on the bench's hosts come again, with other names."""


@pytest.fixture(scope="module")
def hosts() -> dict[str, Case]:
    return fleet(ROUND)


@pytest.mark.long
def test_more_equal_hosts_are_no_more_work(hosts: dict[str, Case]) -> None:
    catalogue = load()
    _shared.cache_clear()
    first = choose_all(hosts, catalogue, TODAY)
    once = solves()
    assert 50 < once < ROUND  # there are equal hosts in one round already
    again = choose_all(hosts | {f"{name}b": case for name, case in hosts.items()}, catalogue, TODAY)
    assert solves() == once
    assert len(again) == 2 * len(first)
    for name, answer in first.items():
        for other in (name, f"{name}b"):
            assert again[other].solution.stack == answer.solution.stack
            assert again[other].environment == answer.environment


@pytest.mark.long
def test_a_groups_candidates_are_solved_once_for_equal_members(
    hosts: dict[str, Case], monkeypatch: pytest.MonkeyPatch
) -> None:
    counted: list[Any] = []
    real = solve.solve_whole

    def counting(*arguments: Any) -> Any:
        counted.append(arguments)
        return real(*arguments)

    monkeypatch.setattr(solve, "solve_whole", counting)
    group = {name: case for name, case in hosts.items() if case.spec.same_torch}
    _shared.cache_clear()
    choose_all(group, load(), TODAY)
    few, counted[:] = len(counted), []
    more = {f"{name}-{turn}": case for name, case in group.items() for turn in range(5)}
    _shared.cache_clear()
    choose_all(more, load(), TODAY)
    assert len(counted) == few > 0
