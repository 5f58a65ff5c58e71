"""Answers for fleets: solved with one question per repository, or taken from the lock."""

import base64
import gzip
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from deploy import locking
from deploy.available import FIRST, LAST
from deploy.commands.plan import make_plans
from deploy.engine.wave import settle
from deploy.facts import Foreign, NodeFacts, PythonFacts
from deploy.fleet.conversation import Result
from deploy.fleet.errors import WrongInput
from deploy.fleet.inventory import Fleet, Host
from deploy.fleet.spec import NodeSpec
from deploy.lock import Lock
from deploy.locking import answers, new_lock, solve_fleet
from deploy.stack import TorchEnvironment
from deploy.survey import Survey
from tests import factory
from tests.factory import driven, facts

Wish = dict[str, Any]


def quiet(text: str) -> None:
    """Says nothing."""


class Connection:
    """A host that answers what the simulated vendor's repository offers, or nothing."""

    def __init__(self, host: str, *, works: bool = True) -> None:
        self.host = host
        self.works = works
        self.scripts: list[str] = []

    def run(self, command: str, *, stdin: str, timeout_s: float, limit: int) -> Result:
        self.scripts.append(stdin)
        if not self.works:
            return Result(None, "", "", 1.0, "lost the connection")
        return Result(0, offered(), "", 1.0, "")

    def close(self) -> None:
        """Nothing to close."""


def offered() -> str:
    fields = {"Depends": "depends", "Provides": "provides", "Conflicts": "conflicts"}
    stanzas = [
        "\n".join(
            [
                f"Package: {offer.name}",
                f"Version: {offer.version}",
                f"Size: {offer.size}",
                *(
                    f"{name}: {getattr(offer, key)}"
                    for name, key in fields.items()
                    if getattr(offer, key)
                ),
            ]
        )
        for offer in factory.offers()
    ]
    packed = base64.b64encode(gzip.compress("\n\n".join(stanzas).encode())).decode()
    key = base64.b64encode(factory.KEY.encode()).decode()
    return "\n".join([FIRST, "part key", key, "part packages", packed, LAST])


def fleet(**hosts: Wish) -> Fleet:
    shared = {"vendor_key_fingerprint": factory.key_fingerprint(), "torch": "none"}
    return Fleet(
        "lab",
        Path("inventories/lab.py"),
        {
            name: Host(name=name, groups=(), spec=NodeSpec(**{**shared, **wish}), data={})
            for name, wish in hosts.items()
        },
    )


def survey(**found: NodeFacts | str) -> Survey:
    """Facts by host, or why there are none."""
    made = Survey()
    for name, facts_or_reason in found.items():
        if isinstance(facts_or_reason, str):
            made.failed[name] = facts_or_reason
        else:
            made.facts[name] = facts_or_reason.model_copy(update={"host": name})
            made.connections[name] = Connection(name)  # type: ignore[assignment]
    return made


def asked(found: Survey) -> dict[str, int]:
    connections: dict[str, Any] = dict(found.connections)
    return {name: len(one.scripts) for name, one in connections.items() if one.scripts}


LAB = fleet(h1={}, h2={}, v1={}, c1={}, gone={})
FOUND = {
    "h1": facts("hgx-h100"),
    "h2": facts("hgx-h100"),
    "v1": facts("v100"),
    "c1": facts("none"),
    "gone": "gone: 10.0.0.9: no answer within 10 s",
}


def test_one_host_per_repository_is_asked() -> None:
    found = survey(**FOUND)
    solutions = solve_fleet(LAB, found, quiet)
    assert len(asked(found)) == 1
    assert sum(asked(found).values()) == 1
    stacks = {name: one.stack.id for name, one in solutions.items() if one.stack}
    assert stacks["h1"] == stacks["h2"]
    assert len(set(stacks.values())) == 3


def test_another_repository_is_another_question() -> None:
    found = survey(a=facts("l40s"), b=facts("l40s"), c=facts("l40s"))
    lab = fleet(a={}, b={"vendor_repository": "http://mirror/x"}, c={"proxy": "http://p:1"})
    solve_fleet(lab, found, quiet)
    assert asked(found) == {"a": 1, "b": 1, "c": 1}


def test_the_next_host_is_asked_when_one_cannot_say() -> None:
    found = survey(a=facts("l40s"), b=facts("l40s"))
    connections: dict[str, Any] = dict(found.connections)
    connections["a"].works = False
    solutions = solve_fleet(fleet(a={}, b={}), found, quiet)
    assert asked(found) == {"a": 1, "b": 1}
    assert all(one.stack for one in solutions.values())


def test_nobody_can_say_what_is_offered() -> None:
    found = survey(a=facts("l40s"), b=facts("none"))
    connections: dict[str, Any] = dict(found.connections)
    connections["a"].works = False
    solutions = solve_fleet(fleet(a={}, b={}), found, quiet)
    assert solutions["a"].blocked is not None
    assert solutions["a"].blocked.rule == "repository"
    assert "lost the connection" in solutions["a"].blocked.reason
    assert solutions["b"].stack


def test_waiting_is_announced() -> None:
    said: list[str] = []
    solve_fleet(fleet(a={}), survey(a=facts("l40s")), said.append)
    assert said == [
        "asking a what "
        "https://developer.download.nvidia.com/compute/cuda/repos/debian12/x86_64 offers"
    ]


def test_a_host_without_facts_is_blocked_as_unreachable() -> None:
    blocked = solve_fleet(LAB, survey(**FOUND), quiet)["gone"].blocked
    assert blocked is not None
    assert blocked.rule == "unreachable"
    assert "10.0.0.9" in blocked.reason


def test_environments_are_resolved_once_each(monkeypatch: pytest.MonkeyPatch) -> None:
    resolved = []

    class Counting:
        def __call__(self, wish: Any) -> TorchEnvironment | str:
            resolved.append(wish)
            return "no such package" if wish.build == "cu126" else factory.environment()

    monkeypatch.setattr(locking, "Resolver", Counting)
    lab = fleet(h1={"torch": None}, h2={"torch": None}, v1={"torch": None}, c1={}, gone={})
    solutions = solve_fleet(lab, survey(**FOUND), quiet)
    assert {wish.build for wish in resolved} == {"cu132", "cu126"}
    assert solutions["h1"].stack is not None
    assert solutions["h1"].stack.environment == factory.environment()
    assert solutions["v1"].blocked is not None
    assert solutions["v1"].blocked.rule == "environment"
    assert "no such package" in solutions["v1"].blocked.reason


# ---- from a lock


@pytest.fixture
def lock() -> Lock:
    return new_lock(LAB, solve_fleet(LAB, survey(**FOUND), quiet))


def test_the_lock_answers_without_asking_any_repository(lock: Lock) -> None:
    found = survey(**FOUND)
    solutions = answers(LAB, found, lock, quiet)
    assert asked(found) == {}
    assert solutions["h1"].stack == lock.stack_of("h1")
    assert {reason.source for reason in solutions["h1"].reasons} == {"the lock"}


def test_without_a_lock_the_fleet_is_solved() -> None:
    found = survey(**FOUND)
    assert answers(LAB, found, None, quiet)["h1"].stack
    assert sum(asked(found).values()) == 1


def test_every_host_that_the_lock_does_not_answer_is_named(lock: Lock) -> None:
    changed = fleet(h1={"driver": "595"}, h2={}, v1={}, c1={}, gone={}, new={}, newer={})
    with pytest.raises(WrongInput) as error:
        answers(changed, survey(**FOUND), lock, quiet)
    assert [fault.where for fault in error.value.faults] == ["h1", "new", "newer"]
    assert all("gpufleet lock inventories/lab.py" in fault.message for fault in error.value.faults)


def test_a_changed_key_that_decides_nothing_needs_no_new_lock(lock: Lock) -> None:
    changed = fleet(h1={"gpus": 8, "library_path": True}, h2={}, v1={}, c1={}, gone={})
    assert answers(changed, survey(**FOUND), lock, quiet)["h1"].stack


def test_a_host_whose_answer_cannot_be_used_is_blocked_in_the_plan() -> None:
    fleet = Fleet("lab", Path("lab.py"), {"liar": Host("liar", (), NodeSpec(), {})})
    found = Survey(failed={"liar": "liar: the answer was cut off"}, unusable={"liar"})
    assert found.unreachable == {}
    solutions = answers(fleet, found, None)
    plan = make_plans(fleet, found, solutions)["liar"]
    assert plan.verdict == "blocked"
    assert plan.blocked is not None
    assert (plan.blocked.rule, plan.blocked.reason) == (
        "unusable-answer",
        "the answer was cut off",
    )
    assert settle(fleet, found, {"liar": plan})["liar"].status == "blocked"


def test_a_host_that_was_unreachable_when_it_was_locked_stops_nobody(lock: Lock) -> None:
    assert lock.blocked == {"gone": "unreachable"}
    back = survey(**{**FOUND, "gone": facts("l40s")})
    solutions = answers(LAB, back, lock, quiet)
    assert solutions["h1"].stack
    blocked = solutions["gone"].blocked
    assert blocked is not None
    assert blocked.rule == "not-locked"
    assert "gpufleet lock inventories/lab.py --limit gone" in blocked.unblock[0]


def test_a_limited_fleet_needs_only_its_own_hosts_locked(lock: Lock) -> None:
    changed = fleet(h1={}, h2={"driver": "595"}, v1={}, c1={}, gone={})
    assert answers(changed.limit("h1"), survey(h1=FOUND["h1"]), lock, quiet)["h1"].stack


@pytest.mark.parametrize(
    ("now", "rule", "words"),
    [
        (facts("l40s"), "lock-hardware", "no NVSwitch any more, locked with fabric manager"),
        (facts("v100"), "lock-hardware", "open modules do not work with 4 x Tesla V100"),
        (facts("none"), "lock-hardware", "no GPU any more"),
        (facts("hgx-h100", python=PythonFacts(version="3.11.2", venv=True, headers=True)), "", ""),
        (facts("hgx-h100", pci=None, unknown={"pci": "no sysfs"}), "unknown-facts", "no sysfs"),
        (facts("hgx-h100", modules=None, unknown={"modules": "x"}), "unknown-facts", "modules"),
        (facts("hgx-h100", foreign=(Foreign(owner="vfio", evidence="0000:1a:00.0"),)),
         "foreign-vfio", "0000:1a:00.0"),
        (facts("hgx-h100", secure_boot="enabled"), "secure-boot", "Secure Boot is enabled"),
        (driven("hgx-h100", "580.178.04", "open", secure_boot="enabled"), "", ""),
        (driven("hgx-h100", "580.159.04", "open"), "", ""),
    ],
)  # fmt: skip
def test_a_locked_host_is_looked_at_again(
    lock: Lock, now: NodeFacts, rule: str, words: str
) -> None:
    solution = answers(LAB, survey(**{**FOUND, "h1": now}), lock, quiet)["h1"]
    if not rule:
        assert solution.stack == lock.stack_of("h1")
        return
    assert solution.blocked is not None
    assert solution.blocked.rule == rule
    assert words in solution.blocked.reason
    assert solution.blocked.unblock


def test_another_python_or_new_gpus_no_longer_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locking, "Resolver", lambda: lambda wish: factory.environment())
    lab = fleet(c1={"torch": None})
    lock = new_lock(lab, solve_fleet(lab, survey(c1=facts("none")), quiet))
    other = facts("none", python=PythonFacts(version="3.13.1", venv=True, headers=True))
    for now, words in ((other, "its Python is 3.13"), (facts("l40s"), "locked without a driver")):
        blocked = answers(lab, survey(c1=now), lock, quiet)["c1"].blocked
        assert blocked is not None
        assert words in blocked.reason
        assert blocked.unblock == ("gpufleet lock inventories/lab.py --limit c1 --upgrade",)


def test_the_end_of_a_locked_drivers_branch_is_told(
    lock: Lock, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert answers(LAB, survey(**FOUND), lock, quiet)["h1"].warnings == ()
    monkeypatch.setattr(locking, "_today", lambda: date(2028, 7, 1))
    told = answers(LAB, survey(**FOUND), lock, quiet)["h1"].warnings
    assert told == ("driver branch 580 reached its end of life in 2028-06",)


# ---- making locks


def test_the_same_fleet_gives_the_same_lock(lock: Lock) -> None:
    again = new_lock(LAB, solve_fleet(LAB, survey(**FOUND), quiet))
    assert again == lock
    assert again.digest


def test_hosts_that_were_not_solved_stay_and_hosts_that_left_go(lock: Lock) -> None:
    smaller = fleet(h1={}, v1={"driver": "580"}, gone={})
    found = survey(v1=facts("v100"))
    changed = new_lock(smaller, solve_fleet(smaller.limit("v1"), found, quiet), lock)
    assert set(changed.hosts) == {"h1", "v1"}
    assert changed.hosts["h1"] == lock.hosts["h1"]
    assert changed.hosts["v1"] != lock.hosts["v1"]
    assert changed.blocked == {"gone": "unreachable"}


def test_a_host_without_an_answer_keeps_the_stack_that_answers_its_wish(lock: Lock) -> None:
    lost = survey(**{**FOUND, "h1": "h1: no answer", "v1": "v1: no answer"})
    again = fleet(h1={}, h2={}, v1={"driver": "580"}, c1={}, gone={})
    changed = new_lock(again, solve_fleet(again, lost, quiet), lock)
    assert changed.hosts["h1"] == lock.hosts["h1"]
    assert "v1" not in changed.hosts
    assert changed.blocked == {"gone": "unreachable", "v1": "unreachable"}


def test_a_steady_reason_stands_in_the_lock() -> None:
    lab = fleet(v1={"cuda": "13.0"})
    lock = new_lock(lab, solve_fleet(lab, survey(v1=facts("v100")), quiet))
    assert lock.hosts == {}
    assert lock.blocked["v1"].startswith("cuda-hardware: CUDA 13.0 does not support Tesla V100")
