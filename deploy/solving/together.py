"""One torch for hosts that name the same word in `same_torch`: release, build and Python. Pure.

Hosts outside a group never count. Inside, the newest release and build that serves every member is
taken, so a member may get an older one than it would alone, and says so. Members that are locked
already are not moved by others that join: what they have is then the only candidate.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from deploy.catalog.models import Catalogue, TorchRelease, numbers
from deploy.fleet.names import fold
from deploy.fleet.spec import NONE, NodeSpec
from deploy.solving.offers import Available, Unavailable, matches
from deploy.solving.parts import CPU, Answered
from deploy.solving.python import steady
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


def agree(group: Group, catalogue: Catalogue, solve: Solve) -> dict[str, Answered]:
    """The answer of every member, with one torch among them. Raises Refused naming the hosts that
    cannot have one together."""
    kinds = list(dict.fromkeys(group.members.values()))
    alone = {member: solve(member) for member in kinds}
    tried: list[tuple[str, dict[Member, Refused]]] = []
    for release, build in _candidates(group, kinds, alone, catalogue):
        found, refused = _each(kinds, alone, solve, {"torch": release.version}, build)
        if not refused:
            answers = _one_python(group, kinds, alone, found, solve, release, build)
            if answers is not None:
                return _told(group, answers)
            refused = {
                member: Refused(
                    "python",
                    f"its Python is {_common(found[member]).python}",
                    source=SOURCE,
                )
                for member in kinds
            }
        tried.append((f"torch {release.version}+{build}", refused))
    raise _no_common(group, alone, tried)


def _candidates(
    group: Group, kinds: list[Member], alone: Answers, catalogue: Catalogue
) -> Iterator[tuple[TorchRelease, str]]:
    """Releases newest first, builds in the catalogue's order; a build whose CUDA major fewer
    members wish another toolkit of comes first, as it does for one host."""
    only = {(one.torch, one.build) for one in group.locked.values()}
    majors = [numbers(one.spec.cuda)[0] for one in kinds if one.spec.cuda and one.spec.cuda != NONE]
    pairs = []
    for release in catalogue.torch:
        cuda = {build.build: numbers(build.cuda)[0] for build in release.builds}
        for build in (*cuda, CPU):
            if only and only != {(release.version, build)}:
                continue
            against = sum(major != cuda.get(build, major) for major in majors)
            pairs.append((against, release, build))
    for _, release, build in sorted(pairs, key=lambda pair: pair[0]):
        yield release, build


def _each(
    kinds: list[Member], alone: Answers, solve: Solve, pins: dict[str, str], build: str
) -> tuple[Answers, dict[Member, Refused]]:
    """Every kind of member solved with a release, build and maybe a Python pinned."""
    found: Answers = {}
    refused: dict[Member, Refused] = {}
    for member in kinds:
        try:
            found[member] = solve(_pinned(member, alone[member], pins, build))
        except Refused as reason:
            refused[member] = reason
    return found, refused


def _pinned(member: Member, alone: Answered, pins: dict[str, str], build: str) -> Member:
    spec = member.spec
    wish = f"torch {spec.torch or ''}+{spec.torch_build}".replace("+auto", "").strip()
    if spec.torch and not matches(pins["torch"], spec.torch):
        raise Refused("torch", f"{wish} is wished", source="inventory key torch")
    if spec.torch_build not in ("auto", build):
        raise Refused("torch", f"{wish} is wished", source="inventory key torch_build")
    assert alone.environment is not None
    if build == CPU and alone.environment.build != CPU:
        raise Refused("torch", "it has GPUs", source="facts: pci")
    changes = {**pins, "torch_build": build}
    return Member(spec.model_copy(update=changes), member.seen, member.available)


def _one_python(
    group: Group,
    kinds: list[Member],
    alone: Answers,
    found: Answers,
    solve: Solve,
    release: TorchRelease,
    build: str,
) -> Answers | None:
    """The same answers on one Python: what all of them have already, else what one of them wishes,
    else what uv brings to all, else the newest of their own. None when there is none."""
    kept = {one.python for one in group.locked.values()}
    theirs = {_common(answer).python for answer in found.values()}
    if len(theirs | kept) == 1:
        return found
    wishes = {member.spec.python for member in kinds if member.spec.python}
    own = sorted(theirs, key=numbers, reverse=True)
    for python in sorted(kept | wishes) or [steady(release), *own]:
        if wishes - {python} or kept - {python}:
            continue
        pins = {"torch": release.version, "python": python}
        answers, refused = _each(kinds, alone, solve, pins, build)
        if not refused:
            return answers
    return None


def _common(answer: Answered) -> Common:
    wish = answer.environment
    assert wish is not None
    return Common(wish.torch, wish.build, wish.python)


def _told(group: Group, answers: Answers) -> dict[str, Answered]:
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


def _no_common(
    group: Group, alone: Answers, tried: list[tuple[str, dict[Member, Refused]]]
) -> Refused:
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
        by_answer.setdefault(str(_common(alone[member])), []).append(name)
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
