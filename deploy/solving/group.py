"""A group of hosts that share one torch, and what is said of it. Pure."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from deploy.fleet.names import fold
from deploy.fleet.spec import NodeSpec
from deploy.solving.offers import Available, Unavailable
from deploy.solving.parts import Answered
from deploy.solving.refusal import Refused, listed
from deploy.solving.situation import Situation
from deploy.stack import Reason

SOURCE = "inventory key same_torch"


@dataclass(frozen=True)
class Common:
    """What the hosts of a group share."""

    torch: str
    build: str
    python: str

    def __str__(self) -> str:
        return f"torch {self.torch}+{self.build} on Python {self.python}"


@dataclass(frozen=True)
class Member:
    """All that decides one host's answer; equal members have equal answers."""

    spec: NodeSpec
    seen: Situation
    available: Available | Unavailable


Solve = Callable[[Member], Answered]
"""The answer of one member alone. Raises Refused."""
Answers = dict[Member, Answered]


@dataclass(frozen=True)
class Group:
    """One word of `same_torch`, and who counts."""

    word: str
    members: Mapping[str, Member]
    """Hosts that have an environment when each is solved alone, by name."""
    locked: Mapping[str, Common]
    """Hosts of the group that are not solved now and keep what they have."""
    absent: tuple[str, ...]
    """Hosts of the group that have no answer of their own, so that they cannot count."""

    @property
    def hosts(self) -> str:
        """Everybody who counts, folded."""
        return fold([*self.members, *self.locked])


def common_of(answer: Answered) -> Common:
    """What an answer with an environment would share."""
    wish = answer.environment
    assert wish is not None
    return Common(wish.torch, wish.build, wish.python)


def told(group: Group, answers: Answers) -> dict[str, Answered]:
    """By host, each reason that the group decided said as what it is."""
    count = len(group.members) + len(group.locked)
    because = f'same_torch = "{group.word}": the newest that serves all {count} hosts of it'
    if group.locked:
        because = f'same_torch = "{group.word}": {fold(list(group.locked))} is locked to it'
    warnings: tuple[str, ...] = ()
    if group.absent:
        warnings = (
            f'same_torch = "{group.word}": {fold(list(group.absent))} has no answer of its own '
            "and did not count",
        )
    said = {}
    for name, member in group.members.items():
        answer = answers[member]
        reasons = tuple(
            reason.model_copy(update={"because": f"{because} ({group.hosts})", "source": SOURCE})
            if _is_the_groups(reason, member.spec)
            else reason
            for reason in answer.reasons
        )
        said[name] = Answered(
            answer.stack, reasons, (*answer.warnings, *warnings), answer.environment
        )
    return said


def _is_the_groups(reason: Reason, spec: NodeSpec) -> bool:
    """Torch is; Python where it was pinned without the host's own wish for it."""
    return reason.part == "torch" or (
        reason.part == "python" and not spec.python and reason.source == "inventory key python"
    )


def no_common(
    group: Group, alone: Answers, tried: list[tuple[str, dict[Member, Refused]]]
) -> Refused:
    """Refused, with what each host alone gets, and the candidate that came nearest."""
    if group.locked:
        having = listed(sorted({str(one) for one in group.locked.values()}))
        why = f"; {_against(group, tried[-1][1])}" if tried else ""
        everybody = fold([*group.members, *group.locked])
        return Refused(
            "same-torch",
            f'same_torch = "{group.word}": {fold(list(group.locked))} is locked to {having}, which '
            f"does not serve {fold(list(group.members))}{why}",
            source=SOURCE,
            unblock=(
                f"gpufleet lock INVENTORY --upgrade --limit {everybody}: the whole group anew",
                f"leave same_torch out on {fold(list(group.members))}",
            ),
        )
    by_answer: dict[str, list[str]] = {}
    for name, member in group.members.items():
        by_answer.setdefault(str(common_of(alone[member])), []).append(name)
    each = listed([f"{fold(names)} alone gets {what}" for what, names in by_answer.items()])
    what, refused = min(tried, key=lambda one: len(_names(group, one[1])))
    return Refused(
        "same-torch",
        f'same_torch = "{group.word}": no one torch serves {group.hosts}: {each}; '
        f"nearest is {what}, against it {_against(group, refused)}",
        source=SOURCE,
        unblock=(
            f"leave same_torch out on {fold(_names(group, refused))}, or give it a word of its own",
        ),
    )


def _names(group: Group, refused: Mapping[Member, Refused]) -> list[str]:
    return [name for name, member in group.members.items() if member in refused]


def _against(group: Group, refused: Mapping[Member, Refused]) -> str:
    by_reason: dict[str, list[str]] = {}
    for name, member in group.members.items():
        if member in refused:
            by_reason.setdefault(refused[member].reason, []).append(name)
    return listed([f"{fold(names)}: {reason}" for reason, names in by_reason.items()])
