"""Groups of hosts that share one torch: what they agree on, and when they cannot."""

from pathlib import Path
from typing import Any

import pytest

from deploy import locking
from deploy.catalog import load
from deploy.commands import lock as lock_command
from deploy.facts import NodeFacts, PythonFacts
from deploy.fleet import exits
from deploy.fleet.inventory import Fleet, Host
from deploy.fleet.spec import NodeSpec
from deploy.lock import HostLock, Lock, read_lock, spec_digest
from deploy.locking import beside
from deploy.solve import Answer, Beside, Case, Common, choose_all
from deploy.solving.parts import EnvironmentWish
from deploy.stack import TorchEnvironment
from tests import factory
from tests.factory import environment, facts, solved
from tests.test_lock_command import World

V100, H100, BLACKWELL = facts("v100"), facts("hgx-h100"), facts("l40s")
BLACKWELL = facts(
    "l40s", pci=tuple(one.model_copy(update={"device": "2bb5"}) for one in BLACKWELL.pci or ())
)
NEWEST = Common("2.15.0", "cu132", "3.11")
OLDER = Common("2.14.1", "cu126", "3.11")


def python(version: str) -> dict[str, Any]:
    return {"python": PythonFacts(version=version, venv=True, headers=True)}


def ask(hosts: dict[str, tuple[NodeFacts, dict[str, Any]]], **others: Beside) -> dict[str, Answer]:
    cases = {
        name: Case(
            NodeSpec(**{"same_torch": "train", **spec}),
            found.model_copy(update={"host": name}),
            factory.available(),
        )
        for name, (found, spec) in hosts.items()
    }
    return choose_all(cases, load(), factory.TODAY, others)


def got(answer: Answer) -> Common | None:
    wish = answer.environment
    return Common(wish.torch, wish.build, wish.python) if wish else None


ALONE: dict[str, Any] = {"same_torch": None}


@pytest.mark.parametrize(
    ("hosts", "wanted"),
    [
        # research 2.11, V100 + H100 in one rack: one environment only with cu126
        ({"h1": (H100, {}), "v1": (V100, {})}, OLDER),
        # agreed already
        ({"h1": (H100, {}), "h2": (H100, {})}, NEWEST),
        ({"h1": (H100, {})}, NEWEST),
        # a wish of one is a wish for all
        ({"h1": (H100, {"torch": "2.13"}), "h2": (H100, {})}, Common("2.13.0", "cu130", "3.11")),
        ({"h1": (H100, {"torch_build": "cu130"}), "h2": (H100, {})},
         Common("2.14.1", "cu130", "3.11")),
        ({"h1": (H100, {"cuda": "12.9"}), "h2": (H100, {})}, OLDER),
        # Python: their own differ, so uv brings one to all; a wish decides; venv has its own only
        ({"h1": (H100, {}), "h2": (facts("l40s", **python("3.12.3")), {})},
         Common("2.15.0", "cu132", "3.14")),
        ({"h1": (H100, {"python": "3.13"}), "h2": (H100, {})}, Common("2.15.0", "cu132", "3.13")),
        ({"h1": (H100, {"env": "venv"}), "h2": (facts("l40s", **python("3.12.3")), {})}, NEWEST),
        # the CPU build, asked for by one and the only one of the other
        ({"h1": (H100, {"torch_build": "cpu"}), "c1": (facts("none"), {})},
         Common("2.15.0", "cpu", "3.11")),
    ],
)  # fmt: skip
def test_what_a_group_agrees_on(
    hosts: dict[str, tuple[NodeFacts, dict[str, Any]]], wanted: Common
) -> None:
    assert {name: got(answer) for name, answer in ask(hosts).items()} == dict.fromkeys(
        hosts, wanted
    )


@pytest.mark.parametrize(
    ("hosts", "words"),
    [
        # research 2.11: Volta ends with cu126, Blackwell begins with cu128
        ({"v1": (V100, {}), "b1": (BLACKWELL, {})},
         ["v1 alone gets torch 2.14.1+cu126", "b1 alone gets torch 2.15.0+cu132", "holds no code"]),
        ({"h1": (H100, {"torch": "2.13"}), "h2": (H100, {"torch": "2.14"})},
         ["h1 alone gets torch 2.13.0", "h2 alone gets torch 2.14.1", "torch 2.13 is wished"]),
        ({"h1": (H100, {"python": "3.12"}), "h2": (H100, {"python": "3.13"})}, ["Python is 3.12"]),
        ({"h1": (H100, {}), "c1": (facts("none"), {})}, ["+cpu", "the PCI bus shows no GPU"]),
    ],
)  # fmt: skip
def test_a_group_that_cannot_agree_is_blocked_with_the_names(
    hosts: dict[str, tuple[NodeFacts, dict[str, Any]]], words: list[str]
) -> None:
    for name, answer in ask(hosts).items():
        refused = answer.solution.blocked
        assert refused is not None
        assert (refused.host, refused.rule) == (name, "same-torch")
        for word in words:
            assert word in refused.reason, refused.reason
        for other in hosts:
            assert other in refused.reason


def test_the_way_out_of_a_conflict_solves() -> None:
    hosts: dict[str, tuple[NodeFacts, dict[str, Any]]] = {
        "h1": (H100, {}),
        "v1": (V100, {}),
        "b1": (BLACKWELL, {}),
    }
    refused = ask(hosts)["h1"].solution.blocked
    assert refused is not None
    assert refused.unblock[0].startswith("leave same_torch out on v1,")
    answers = ask({**hosts, "v1": (V100, ALONE)})
    assert {name: got(answer) for name, answer in answers.items()} == {
        "h1": NEWEST,
        "v1": OLDER,
        "b1": NEWEST,
    }


def test_a_host_outside_never_counts() -> None:
    inside: dict[str, tuple[NodeFacts, dict[str, Any]]] = {"h1": (H100, {}), "v1": (V100, {})}
    outside = {"b1": (BLACKWELL, ALONE), "b2": (BLACKWELL, {"same_torch": "other"})}
    answers = ask({**inside, **outside})
    assert {name: answers[name] for name in inside} == ask(inside)
    assert {name: answers[name] for name in outside} == ask(outside)


def test_the_reasons_name_the_group() -> None:
    answers = ask({"h1": (H100, {}), "h2": (H100, {}), "v1": (V100, {})})
    why = {reason.part: reason for reason in answers["h1"].solution.reasons}
    assert why["torch"].because.startswith('same_torch = "train": the newest that serves all 3')
    assert "h[1-2],v1" in why["torch"].because
    assert why["torch"].source == "inventory key same_torch"
    assert why["python"].because == "the host's own python3"


def test_a_blocked_member_does_not_count_and_that_is_said() -> None:
    gone = facts("v100", os=None, unknown={"os": "no answer"})
    answers = ask({"h1": (H100, {}), "v1": (gone, {})}, train=Beside(absent=("v2",)))
    assert got(answers["h1"]) == NEWEST
    assert answers["v1"].solution.blocked
    assert (
        'same_torch = "train": v[1-2] has no answer of its own and did not count'
        in answers["h1"].solution.warnings
    )


def test_a_host_that_wants_no_torch_is_no_member() -> None:
    answers = ask({"h1": (H100, {}), "v1": (V100, {"torch": "none"})})
    assert got(answers["h1"]) == NEWEST
    assert answers["h1"].solution.warnings == ask({"h1": (H100, {})})["h1"].solution.warnings


def test_locked_members_are_not_moved_by_one_that_joins() -> None:
    locked = Beside({"v1": OLDER, "v2": OLDER})
    answer = ask({"h1": (H100, {})}, train=locked)["h1"]
    assert got(answer) == OLDER
    why = next(one for one in answer.solution.reasons if one.part == "torch")
    assert "v[1-2] is locked to it" in why.because
    refused = ask({"b1": (BLACKWELL, {})}, train=locked)["b1"].solution.blocked
    assert refused is not None
    assert "v[1-2] is locked to torch 2.14.1+cu126 on Python 3.11" in refused.reason
    assert "holds no code" in refused.reason
    assert "--limit b1,v[1-2]" in refused.unblock[0]
    split = Beside({"v1": OLDER, "h2": NEWEST})
    torn = ask({"h1": (H100, {})}, train=split)["h1"].solution.blocked
    assert torn is not None
    assert f"{OLDER} and {NEWEST}" in torn.reason


def test_who_stands_beside_is_read_from_the_lock_when_it_answers_todays_wishes() -> None:
    wished, other = NodeSpec(same_torch="train"), NodeSpec(same_torch="train", torch="2.13")
    specs = {"h1": wished, "h2": wished, "h3": other, "h4": wished, "x1": NodeSpec()}
    fleet = Fleet("lab", None, {name: _host(name, spec) for name, spec in specs.items()})
    stack = solved("l40s").model_copy(update={"environment": environment()})
    entry = HostLock(stack=stack.id, spec=spec_digest(wished))
    lock = Lock(stacks={stack.id: stack}, hosts=dict.fromkeys(("h1", "h2", "h3", "x1"), entry))
    assert beside(fleet, ["h1"], lock) == {
        "train": Beside({"h2": Common("2.13.0", "cpu", "3.11")}, ("h3", "h4"))
    }
    assert beside(fleet, ["h1"], None) == {"train": Beside({}, ("h2", "h3", "h4"))}
    assert beside(fleet, list(specs), lock) == {}


def _host(name: str, spec: NodeSpec) -> Host:
    return Host(name=name, spec=spec, data={}, groups=())


# ---- through the command: what is locked stays until the whole group is solved anew


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    made = World(tmp_path)
    monkeypatch.setattr(lock_command, "survey", made.survey)

    def resolve(wish: EnvironmentWish, kept: object = None) -> TorchEnvironment:
        return environment(
            torch=wish.torch,
            build=wish.build,
            hardware_build=wish.hardware_build,
            python=wish.python,
        )

    monkeypatch.setattr(locking, "Resolver", lambda: resolve)
    made.add("h1", H100, torch=None, same_torch="train")
    return made


def torches(world: World) -> dict[str, str]:
    lock = read_lock(world.lock)
    assert lock is not None
    stacks = {name: lock.stack_of(name) for name in lock.hosts}
    return {
        name: f"{stack.environment.torch}+{stack.environment.build}"
        for name, stack in stacks.items()
        if stack and stack.environment
    }


def test_a_lock_moves_a_group_only_as_a_whole(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    assert world.run("lock") == exits.OK
    assert torches(world) == {"h1": "2.15.0+cu132"}
    world.add("v1", V100, torch=None, same_torch="train")
    assert world.run("lock") == exits.FAILED
    said = capsys.readouterr().out
    assert "h1 is locked to torch 2.15.0+cu132 on Python 3.11, which does not serve v1" in said
    assert "--upgrade --limit h1,v1: the whole group anew" in said
    assert torches(world) == {"h1": "2.15.0+cu132"}
    assert world.run("lock", "--upgrade", "--limit", "v1") == exits.FAILED
    assert torches(world) == {"h1": "2.15.0+cu132"}
    assert world.run("lock", "--upgrade", "--limit", "h1,v1") == exits.OK
    assert torches(world) == {"h1": "2.14.1+cu126", "v1": "2.14.1+cu126"}
    world.add("h2", H100, torch=None, same_torch="train")
    world.add("h3", H100, torch=None)
    assert world.run("lock", "--limit", "h2,h3") == exits.OK
    assert torches(world) == dict.fromkeys(("h1", "h2", "v1"), "2.14.1+cu126") | {
        "h3": "2.15.0+cu132"
    }


def test_a_member_that_does_not_answer_keeps_the_group_where_it_is(world: World) -> None:
    world.add("h2", H100, torch="2.14", same_torch="train")
    assert world.run("lock") == exits.OK
    assert set(torches(world).values()) == {"2.14.1+cu130"}
    world.found["h2"] = "h2: no answer within 10 s"
    assert world.run("lock", "--upgrade") == exits.NOT_LOOKED_AT
    assert torches(world) == dict.fromkeys(("h1", "h2"), "2.14.1+cu130")
