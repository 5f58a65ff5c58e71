"""Whatever is asked of whatever host: a stack satisfies the catalogue, read row by row.

The constraints are computed again in `tests.constraints`, which calls nothing of the solver. More
examples run with `-m long`.
"""

import re
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deploy.facts import InstalledModule, Modules, NodeFacts, Package, PythonFacts
from deploy.fleet.spec import NodeSpec
from deploy.solve import Answer, Case, _shared, choose, choose_all
from deploy.solving.offers import Available
from tests import factory
from tests.bare import CATALOGUE, every, host, offered
from tests.constraints import Ask, broken
from tests.factory import KERNEL

PLACES = [(row.name, machine) for row in CATALOGUE.distributions for machine in row.arch]
KINDS = sorted({(gpu.architecture, gpu.compute, gpu.fabric) for gpu in CATALOGUE.gpus})
COMMON = [
    next(
        gpu.device for gpu in CATALOGUE.gpus if (gpu.architecture, gpu.compute, gpu.fabric) == kind
    )
    for kind in KINDS
]
"""One board of every kind; boards of a kind are alike to the solver."""
KEY = "A" * 40

WISHES: dict[str, list[Any]] = {
    "policy": ["keep", "lts", "production", "newest"],
    "driver": ["none", "580", "580.178.04", "595", "570", "535", "615", "620"],
    "driver_modules": ["open", "closed"],
    "origin": ["vendor", "distribution"],
    "cuda": ["none", "12.9", "13.0", "13.2", "12.6", "12.8", "11.8"],
    "cudnn": ["none", "9", "9.20.0.48", "9.10.2.21"],
    "nccl": ["none", "2", "2.29.7", "2.29.3"],
    "torch": ["none", "2.15.0", "2.14", "2.13.0", "2.10.0", "2.7"],
    "torch_build": ["auto", "cpu", "cu126", "cu128", "cu130", "cu132"],
    "python": ["3.11", "3.12", "3.14"],
    "env": ["venv"],
    "extras": [("torchvision",), ("torchaudio", "jupyterlab"), ("torchvision==0.29.0",)],
    "dcgm": ["latest", "4.6"],
    "container_toolkit": ["latest", "1.18"],
    "gpus": [0, 1, 2],
}
wishes = st.sampled_from([(key, value) for key, values in WISHES.items() for value in values])
specs = st.lists(wishes, max_size=3).map(dict)
"""Few wishes at a time: with many, most hosts are blocked and little is proven of stacks."""


@dataclass(frozen=True)
class Node:
    """One generated host with its wish."""

    spec: NodeSpec
    facts: NodeFacts
    available: Available

    def ask(self) -> Answer:
        return choose(self.spec, self.facts, CATALOGUE, self.available, factory.TODAY)

    def wishing(self, **changes: Any) -> "Node":
        return Node(self.spec.model_copy(update=changes), self.facts, self.available)


@st.composite
def nodes(draw: st.DrawFn, same_torch: bool = False) -> Node:
    """Any distribution, machine type, boards, standing driver, kernel and wish."""
    distribution, machine = draw(st.sampled_from(PLACES))
    boards = draw(st.lists(st.sampled_from(COMMON), max_size=2))
    if draw(st.booleans()):  # one kind in a host, as most are
        boards = boards[:1] * draw(st.sampled_from([1, 8]))
    kernel = draw(st.sampled_from([KERNEL, KERNEL, "7.0.0-14-generic"]))
    changes: dict[str, Any] = {}
    if draw(st.integers(0, 5)) == 0:
        changes["secure_boot"] = "enabled"
    if draw(st.integers(0, 3)) == 0:
        version = draw(st.sampled_from(["3.9.2", "3.10.1", "3.13.0", ""]))
        changes["python"] = PythonFacts(version=version, venv=True, headers=True)
    if boards and draw(st.integers(0, 2)) == 0:
        changes |= standing(draw, distribution)
    switches = draw(st.sampled_from([0, 0, 4])) if boards else 0
    found = host(
        distribution, *boards, machine=machine, switches=switches, kernel=kernel, **changes
    )
    wish: dict[str, Any] = draw(specs)
    if same_torch:
        wish["same_torch"] = draw(st.sampled_from([None, "a", "b"]))
    if not CATALOGUE.key_of(distribution).fingerprint:
        wish["vendor_key_fingerprint"] = KEY
    had = offered(distribution, machine, "", kernel)
    if (distribution, machine) == ("debian12", "x86_64") and draw(st.booleans()):
        had = factory.available()  # the simulated vendor: several versions of a branch
    return Node(NodeSpec(**wish), found, had)


def standing(draw: st.DrawFn, distribution: str) -> dict[str, Any]:
    """A driver that is installed and loaded, its packages by the vendor's names."""
    version = draw(st.sampled_from(["570.172.08", "580.159.04", "580.178.04", "595.91.07"]))
    flavour: Any = draw(st.sampled_from(["open", "closed"]))
    names = CATALOGUE.driver_names(distribution, "vendor", int(version[:3]))
    packages = {}
    if names is not None:  # else nobody knows who put it there
        full = f"{names.epoch}:{version}-1" if names.epoch else f"{version}-1"
        packages = {
            name: Package(version=full, state="ii", held=False)
            for name in (names.module(flavour), *names.driver)
        }
    module = InstalledModule(kernel=KERNEL, version=version, flavour=flavour)
    loaded = Modules(
        loaded_version=version,
        loaded_flavour=flavour,
        installed=(module,),
        nouveau_loaded=False,
        nouveau_blacklisted=True,
        refcount=0,
    )
    return {"modules": loaded, "packages": packages}


def check(node: Node) -> None:
    """The answer is right, or a refusal that says all."""
    answer = node.ask()
    solution = answer.solution
    if solution.stack is None:
        assert solution.blocked is not None
        assert solution.blocked.reason
        assert solution.blocked.rule
        assert solution.blocked.source
        assert solution.blocked.unblock
        return
    ask = Ask(node.spec, node.facts, every(node.available), CATALOGUE)
    assert list(broken(ask, solution.stack, answer.environment)) == []
    assert solution.blocked is None
    parts = {name for name, _ in solution.stack.components}
    parts |= {"driver", "modules"} if solution.stack.driver else set()
    parts |= {"torch", "python"} if answer.environment else set()
    said = {reason.part for reason in solution.reasons}
    assert parts <= said, "a choice without a reason"
    assert all(reason.because and reason.source for reason in solution.reasons)


@settings(max_examples=80, deadline=None)
@given(node=nodes())
def test_a_stack_satisfies_every_constraint_and_a_refusal_says_why(node: Node) -> None:
    check(node)


@pytest.mark.long
@settings(max_examples=8000, deadline=None)
@given(node=nodes())
def test_many_more_hosts(node: Node) -> None:
    check(node)


@pytest.mark.parametrize(("distribution", "machine"), PLACES)
@pytest.mark.parametrize(
    "policy", ["keep", *(pytest.param(one, marks=pytest.mark.long) for one in WISHES["policy"][1:])]
)
def test_every_kind_of_board(distribution: str, machine: str, policy: str) -> None:
    """No sampling: each board alone, bare, with nothing else wished."""
    key = None if CATALOGUE.key_of(distribution).fingerprint else KEY
    spec = NodeSpec.model_validate({"policy": policy, "vendor_key_fingerprint": key})
    for board in COMMON:
        bare = host(distribution, board, machine=machine)
        check(Node(spec, bare, offered(distribution, machine)))


@pytest.mark.parametrize("board", COMMON, ids=lambda board: CATALOGUE.gpu[board].name)
def test_every_kind_of_board_with_every_wish(board: str) -> None:
    """No sampling either: one wish at a time, and what a refusal suggests."""
    bare, had = host("ubuntu2204", board), offered("ubuntu2204")
    for key, values in WISHES.items():
        for value in values:
            node = Node(NodeSpec.model_validate({key: value}), bare, had)
            check(node)
            check_suggestions(node)


SETTING = re.compile(r'([a-z_]+) = "([^"]*)"')


def suggested(way: str) -> dict[str, str] | None:
    """The wishes that a way to unblock consists of, None when it is words for people."""
    return dict(SETTING.findall(way)) if re.fullmatch(
        rf"{SETTING.pattern}( and {SETTING.pattern})*(: .*)?", way
    ) else None  # fmt: skip


@settings(max_examples=80, deadline=None)
@given(node=nodes())
def test_what_a_refusal_suggests_solves(node: Node) -> None:
    check_suggestions(node)


def check_suggestions(node: Node) -> None:
    """Every setting that a refusal names as a way out is one."""
    blocked = node.ask().solution.blocked
    for way in blocked.unblock if blocked else ():
        changes = suggested(way)
        if changes:
            assert node.wishing(**changes).ask().solution.stack is not None, (blocked, way)


@settings(max_examples=25, deadline=None)
@given(node=nodes())
def test_solving_is_deterministic_and_equal_hosts_get_equal_stacks(node: Node) -> None:
    first = node.ask()
    _shared.cache_clear()
    assert node.ask() == first
    other = Node(node.spec, node.facts.model_copy(update={"host": "h2"}), node.available).ask()
    assert other.environment == first.environment
    assert other.solution.stack == first.solution.stack
    assert other.solution.reasons == first.solution.reasons
    assert (other.solution.blocked is None) == (first.solution.blocked is None)


fleets = st.lists(nodes(same_torch=True), min_size=2, max_size=5)


def fleet(members: list[Node]) -> dict[str, Case]:
    return {
        f"h{index}": Case(
            node.spec, node.facts.model_copy(update={"host": f"h{index}"}), node.available
        )
        for index, node in enumerate(members)
    }


@settings(max_examples=25, deadline=None)
@given(members=fleets, order=st.randoms(use_true_random=False))
def test_no_host_and_no_order_changes_anothers_answer_outside_its_group(
    members: list[Node], order: Any
) -> None:
    cases = fleet(members)
    together = choose_all(cases, CATALOGUE, factory.TODAY)
    names = list(cases)
    order.shuffle(names)
    _shared.cache_clear()
    shuffled = choose_all({name: cases[name] for name in names}, CATALOGUE, factory.TODAY)
    for word in {case.spec.same_torch for case in cases.values()}:
        group = {name: case for name, case in cases.items() if case.spec.same_torch == word}
        if word is None:
            for name, case in group.items():
                alone = choose_all({name: case}, CATALOGUE, factory.TODAY)[name]
                assert together[name] == shuffled[name] == alone
            continue
        alone_group = choose_all(group, CATALOGUE, factory.TODAY)
        for name in group:
            assert together[name] == alone_group[name]
            assert shuffled[name].solution.stack == together[name].solution.stack
            assert shuffled[name].environment == together[name].environment


@settings(max_examples=25, deadline=None)
@given(members=fleets)
def test_a_group_has_one_torch_that_is_right_on_each_of_its_hosts(members: list[Node]) -> None:
    cases = fleet(members)
    answers = choose_all(cases, CATALOGUE, factory.TODAY)
    common: dict[str, set[tuple[str, str, str]]] = {}
    for name, case in cases.items():
        answer, word = answers[name], case.spec.same_torch
        stack, wish = answer.solution.stack, answer.environment
        if stack is None:
            continue
        if wish and word:
            common.setdefault(word, set()).add((wish.torch, wish.build, wish.python))
        ask = Ask(case.spec, case.facts, every(members[int(name[1:])].available), CATALOGUE)
        faults = list(broken(ask, stack, wish))
        # one Python for all may be another than the host's own, and its distribution brings that
        assert [one for one in faults if not one.endswith("would do")] == []
    assert all(len(found) == 1 for found in common.values()), common
