"""One torch for hosts that name the same word in `same_torch`: release, build and Python. Pure.

Hosts outside a group never count. Inside, the newest release and build that serves every member is
taken, so a member may get an older one than it would alone, and says so. Members that are locked
already are not moved by others that join: what they have is then the only candidate.
"""

from collections.abc import Iterator

from deploy.catalog.models import Catalogue, TorchRelease, numbers
from deploy.fleet.spec import NONE
from deploy.solving.group import (
    SOURCE,
    Answers,
    Group,
    Member,
    Solve,
    common_of,
    no_common,
    told,
)
from deploy.solving.offers import matches
from deploy.solving.parts import CPU, Answered
from deploy.solving.python import steady
from deploy.solving.refusal import Refused


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
                return told(group, answers)
            refused = {
                member: Refused(
                    "python",
                    f"its Python is {common_of(found[member]).python}",
                    source=SOURCE,
                )
                for member in kinds
            }
        tried.append((f"torch {release.version}+{build}", refused))
    raise no_common(group, alone, tried)


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
    theirs = {common_of(answer).python for answer in found.values()}
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
