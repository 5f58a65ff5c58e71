"""From wish, facts, catalogue and what is offered to one exact answer. Pure.

`choose` answers for one host alone, `choose_all` for a fleet; equal hosts share the work. The
parts of the search are in `deploy/solving/`. Where there is no answer, the same search run on
nearby wishes says what would have one, so that every suggestion is known to solve.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import date
from functools import lru_cache

from deploy.catalog.models import Catalogue
from deploy.facts import NodeFacts
from deploy.fleet.spec import NodeSpec
from deploy.solving.group import Common, Group, Member
from deploy.solving.nearby import suggestions, that_solve
from deploy.solving.offers import Available, Unavailable
from deploy.solving.parts import Answered, EnvironmentWish
from deploy.solving.place import Place, place
from deploy.solving.refusal import Refused
from deploy.solving.situation import Situation, situation
from deploy.solving.together import agree
from deploy.solving.whole import solve_whole
from deploy.stack import Blocked, Solution, TorchEnvironment

__all__ = [
    "Answer",
    "Beside",
    "Case",
    "Common",
    "EnvironmentWish",
    "Place",
    "choose",
    "choose_all",
    "complete",
    "place",
]


@dataclass(frozen=True)
class Answer:
    """A solution whose stack still lacks the environment that `environment` asks for."""

    solution: Solution
    environment: EnvironmentWish | None = None


@dataclass(frozen=True)
class _Unanswered:
    """Why no host in one situation has a stack."""

    refused: Refused
    unblock: tuple[str, ...]


def choose(
    spec: NodeSpec,
    facts: NodeFacts,
    catalogue: Catalogue,
    available: Available | Unavailable,
    today: date,
) -> Answer:
    """The answer for one host: a stack (its environment unresolved) or Blocked, with reasons.

    `today` only decides warnings about ends of life, never a version.
    """
    found = choose_all({facts.host: Case(spec, facts, available)}, catalogue, today)
    return found[facts.host]


@dataclass(frozen=True)
class Case:
    """One host of a fleet: what is wished, found and offered."""

    spec: NodeSpec
    facts: NodeFacts
    available: Available | Unavailable


@dataclass(frozen=True)
class Beside:
    """Hosts of a `same_torch` group that are not solved now."""

    locked: Mapping[str, Common] = field(default_factory=dict)
    """They keep what the lock says."""
    absent: tuple[str, ...] = ()
    """They have neither facts nor a lock."""


def choose_all(
    hosts: Mapping[str, Case],
    catalogue: Catalogue,
    today: date,
    beside: Mapping[str, Beside] | None = None,
) -> dict[str, Answer]:
    """The answers of a fleet: each host alone, and then one torch for every group of `same_torch`.

    A host that names no group has the same answer whoever stands beside it. `beside` is by word.
    """
    members: dict[str, Member] = {}
    answers: dict[str, Answer] = {}
    for name, one in hosts.items():
        try:
            seen = situation(one.spec, one.facts, catalogue)
        except Refused as reason:
            answers[name] = Answer(_blocked(name, reason.of(name)))
            continue
        members[name] = Member(one.spec, seen, one.available)
        answers[name] = _answer(name, _shared(one.spec, seen, catalogue, one.available, today))
    for group in _groups(hosts, members, answers, beside or {}):
        answers.update(_together(group, catalogue, today))
    return answers


def _answer(name: str, found: "Answered | _Unanswered") -> Answer:
    if isinstance(found, _Unanswered):
        return Answer(_blocked(name, found.refused.of(name, found.unblock)))
    solution = Solution(
        host=name,
        stack=found.stack,
        blocked=None,
        reasons=found.reasons,
        warnings=found.warnings,
    )
    return Answer(solution, found.environment)


def _groups(
    hosts: Mapping[str, Case],
    members: Mapping[str, Member],
    answers: Mapping[str, Answer],
    beside: Mapping[str, Beside],
) -> Iterator[Group]:
    """Groups with a member to solve. A host that wants no torch counts in none."""
    words = dict.fromkeys(one.spec.same_torch for one in hosts.values() if one.spec.same_torch)
    for word in words:
        named = [name for name, one in hosts.items() if one.spec.same_torch == word]
        counting = {name: members[name] for name in named if answers[name].environment}
        stuck = tuple(name for name in named if answers[name].solution.blocked)
        others = beside.get(word, Beside())
        if counting:
            yield Group(word, counting, others.locked, (*stuck, *others.absent))


def _together(group: Group, catalogue: Catalogue, today: date) -> dict[str, Answer]:
    solved: dict[Member, Answered | Refused] = {}

    def solve(member: Member) -> Answered:
        if member not in solved:
            try:
                solved[member] = solve_whole(
                    member.spec, member.seen, catalogue, member.available, today
                )
            except Refused as reason:
                solved[member] = reason
        found = solved[member]
        if isinstance(found, Refused):
            raise found
        return found

    try:
        agreed = agree(group, catalogue, solve)
    except Refused as reason:
        return {name: Answer(_blocked(name, reason.of(name))) for name in group.members}
    return {name: _answer(name, found) for name, found in agreed.items()}


def _blocked(host: str, blocked: Blocked) -> Solution:
    return Solution(host=host, stack=None, blocked=blocked, reasons=(), warnings=())


def complete(answer: Answer, environment: TorchEnvironment | str) -> Solution:
    """The answer with its environment, or Blocked with what uv said."""
    host = answer.solution.host
    if isinstance(environment, str):
        reason = Refused(
            "environment",
            f"the Python environment cannot be resolved: {environment}",
            source="uv pip compile on the controller",
            unblock=(
                "mend what uv says, set torch_index, python_index or find_links, or "
                'another torch or extras; torch = "none" leaves the environment out',
            ),
        )
        return _blocked(host, reason.of(host))
    assert answer.solution.stack is not None
    stack = answer.solution.stack.model_copy(update={"environment": environment})
    return answer.solution.model_copy(update={"stack": stack})


@lru_cache(maxsize=10_000)
def _shared(
    spec: NodeSpec,
    seen: Situation,
    catalogue: Catalogue,
    available: Available | Unavailable,
    today: date,
) -> Answered | _Unanswered:
    """The answer for every host in one situation, remembered."""

    def solve(wish: NodeSpec) -> Answered:
        return solve_whole(wish, seen, catalogue, available, today)

    try:
        return solve(spec)
    except Refused as reason:
        nearby = [
            *suggestions(spec, seen, catalogue, available, solve),
            *that_solve(reason.unblock, spec, solve),
        ]
        return _Unanswered(reason, tuple(dict.fromkeys(nearby)))
