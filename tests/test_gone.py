"""Locked packages that the repository no longer has: who is blocked, what is said, who is asked."""

from pathlib import Path
from typing import Any

from deploy.fleet.inventory import Fleet, Host
from deploy.fleet.spec import NodeSpec
from deploy.gone import without_gone
from deploy.plan import HostPlan, plan_host
from deploy.solving.offers import Available, Unavailable
from deploy.solving.place import Place, place
from deploy.stack import Blocked, Solution, Stack
from deploy.steps import Wanted
from deploy.survey import Survey
from tests import factory
from tests.conformed import conformed
from tests.factory import facts

SPEC = NodeSpec(vendor_key_fingerprint=factory.key_fingerprint(), torch="none")


class World:
    """Hosts of one stack, and who was asked what there is."""

    def __init__(self, *without: str) -> None:
        stack = factory.solved("hgx-h100", vendor_key_fingerprint=factory.key_fingerprint())
        assert stack.repository is not None
        self.stack: Stack = stack
        left = [one for one in factory.offers() if not any(part in one.version for part in without)]
        self.answer: Available | Unavailable = Available(stack.repository, left)
        self.asked: list[str] = []

    def ask(self, fleet: Fleet, found: Survey, catalogue: Any) -> dict[Place, Any]:
        self.asked += fleet.hosts
        places = (place(SPEC, found.facts[name], catalogue) for name in fleet.hosts)
        return {one: self.answer for one in places if one}

    def blocked(self, **hosts: Any) -> dict[str, Blocked | None]:
        fleet = Fleet(
            "lab",
            Path("inventories/lab.py"),
            {name: Host(name=name, groups=(), spec=SPEC, data={}) for name in hosts},
        )
        found = Survey(facts=hosts)
        solutions = {
            name: Solution(host=name, stack=self.stack, blocked=None, reasons=(), warnings=())
            for name in hosts
        }
        plans: dict[str, HostPlan] = {
            name: plan_host(Wanted(host=name, spec=SPEC, stack=self.stack), one)
            for name, one in hosts.items()
        }
        after = without_gone(fleet, found, solutions, plans, self.ask)
        assert all(after[name] is plans[name] for name in plans if not after[name].blocked)
        return {name: plan.blocked for name, plan in after.items()}

    def converged(self) -> Any:
        return conformed(Wanted(host="there", spec=SPEC, stack=self.stack), "hgx-h100")


def test_who_has_everything_is_not_asked() -> None:
    world = World("580.178.04")
    assert world.blocked(there=world.converged()) == {"there": None}
    assert world.asked == []


def test_a_bare_host_is_left_alone_while_all_is_there() -> None:
    world = World()
    assert world.blocked(bare=facts("hgx-h100")) == {"bare": None}
    assert world.asked == ["bare"]


def test_gone_versions_block_who_needs_them_with_the_next_command() -> None:
    world = World("580.178.04", "9.26.0.51")
    found = world.blocked(bare=facts("hgx-h100"), there=world.converged())
    assert found["there"] is None
    blocked = found["bare"]
    assert blocked is not None
    url = world.stack.repository.url if world.stack.repository else ""
    assert blocked.reason.startswith(f"locked packages are gone from {url}: ")
    assert "580.178.04-1 (it has 595" in blocked.reason
    assert " and " in blocked.reason
    first = blocked.unblock[0]
    assert first == "gpufleet lock inventories/lab.py --upgrade driver cudnn"
    assert world.asked == ["bare"]


def test_a_repository_that_cannot_be_asked_blocks() -> None:
    world = World()
    world.answer = Unavailable("it cannot be reached")
    blocked = world.blocked(bare=facts("hgx-h100"))["bare"]
    assert blocked is not None
    assert blocked.reason.endswith("could not be asked for them: it cannot be reached")


def test_what_was_adopted_names_no_repository_to_ask() -> None:
    world = World("580.178.04")
    world.stack = world.stack.model_copy(update={"repository": None})
    assert world.blocked(bare=facts("hgx-h100")) == {"bare": None}
    assert world.asked == []
