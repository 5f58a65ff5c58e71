"""What package repositories offer, and the closure of packages that a wish pulls in.

`closure` walks dependencies inside one origin only. What that does not name (libc6, dkms) is left
to the distribution.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property

from deploy.solving.refusal import Refused
from deploy.solving.relations import Relation, relations
from deploy.solving.versions import NEWEST_FIRST, compare, matches, upstream
from deploy.stack import Origin, PackagePin, Packages, Packaging, Repository

__all__ = [
    "NEWEST_FIRST",
    "Available",
    "Offer",
    "Relation",
    "Unavailable",
    "Unsatisfied",
    "compare",
    "demand",
    "matches",
    "pins",
    "relations",
    "upstream",
]


@dataclass(frozen=True)
class Offer:
    """One package at one version, as a repository lists it."""

    name: str
    version: str
    size: int = 0
    depends: str = field(default="", repr=False)
    """Pre-Depends and Depends together."""
    provides: str = field(default="", repr=False)
    conflicts: str = field(default="", repr=False)
    """Conflicts and Breaks together."""
    stream: str = ""
    """dnf module stream that holds it, as nvidia-driver:580-open."""
    origin: Origin = "vendor"

    @cached_property
    def needs(self) -> tuple[tuple[Relation, ...], ...]:
        """Its dependencies."""
        return relations(self.depends)

    @cached_property
    def given(self) -> tuple[Relation, ...]:
        """The names it stands for: its own, and those it provides."""
        own = Relation(self.name, "=", self.version)
        return (own, *(group[0] for group in relations(self.provides)))

    @cached_property
    def excludes(self) -> tuple[Relation, ...]:
        """What it cannot be installed with."""
        return tuple(group[0] for group in relations(self.conflicts))

    def satisfies(self, wanted: Relation, packaging: Packaging = "apt") -> bool:
        """Whether installing it fulfils a dependency, by its own name or one it provides."""
        return any(
            given.name == wanted.name and wanted.allows(given.version, packaging)
            for given in self.given
        )


class Unsatisfied(Exception):  # noqa: N818 - an answer, not a fault
    """The repository cannot bring this wish about; the message says what is missing."""


class Available:
    """Everything that one distribution and machine type is offered: what is asked for here is the
    vendor's repository; `of` is another origin's, or one module stream's. Compared by identity:
    one object per answer, so that results about it can be remembered."""

    def __init__(
        self,
        repository: Repository,
        offers: Iterable[Offer],
        packaging: Packaging = "apt",
        origin: Origin = "vendor",
    ) -> None:
        self.repository = repository
        self.packaging: Packaging = packaging
        self._all = list(offers)
        self._parts: dict[tuple[Origin, str], Available] = {}
        self._closures: dict[
            tuple[tuple[tuple[str, str], ...], str], dict[str, Offer] | Unsatisfied
        ] = {}
        self._offers: dict[str, list[Offer]] = {}
        self._given: dict[str, list[Offer]] = {}
        for offer in self._all:
            if offer.origin == origin:
                self._offers.setdefault(offer.name, []).append(offer)
        for members in self._offers.values():
            members.sort(key=lambda offer: NEWEST_FIRST[packaging](offer.version))
        for name in sorted(self._offers):
            for offer in self._offers[name]:
                for given in offer.given[1:]:
                    self._given.setdefault(given.name, []).append(offer)

    def of(self, origin: Origin, stream: str = "") -> "Available":
        """What one origin offers with one module stream enabled ("": packages outside of any).
        The same object for the same question."""
        key = (origin, stream)
        if key not in self._parts:
            part = [one for one in self._all if one.origin == origin and one.stream in ("", stream)]
            self._parts[key] = Available(self.repository, part, self.packaging, origin)
        return self._parts[key]

    @cached_property
    def branches(self) -> frozenset[int]:
        """First numbers of every offered version that looks like a driver's, as 580."""
        found = (
            re.fullmatch(r"(\d{3})\.\d{2,3}(\.\d{2})?", upstream(one.version)) for one in self._all
        )
        return frozenset(int(one[1]) for one in found if one)

    def streams(self, module: str) -> list[str]:
        """Streams of a module that hold packages here, sorted: nvidia-driver:580-open ..."""
        found = {one.stream for one in self._all if one.stream.startswith(module + ":")}
        return sorted(found)

    def names(self) -> list[str]:
        """Every package, sorted."""
        return sorted(self._offers)

    def versions(self, name: str) -> list[str]:
        """Every version of a package, the newest first."""
        return [offer.version for offer in self._offers.get(name, [])]

    def offer(self, name: str, version: str) -> Offer | None:
        """One package at one full version, None when it is not there."""
        for offer in self._offers.get(name, []):
            if offer.version == version:
                return offer
        return None

    def known_version(self, name: str, version: str) -> bool:
        """Whether any origin or stream here has a package at one full version."""
        return (name, version) in self._sizes

    def size(self, name: str, version: str) -> int:
        """Download size of a package at one full version, 0 when nobody here offers it."""
        return self._sizes.get((name, version), 0)

    @cached_property
    def _sizes(self) -> dict[tuple[str, str], int]:
        return {(one.name, one.version): one.size for one in self._all}

    def known(self, name: str) -> bool:
        """Whether the repository has a package of this name, or one that provides it."""
        return name in self._offers or name in self._given

    def candidates(self, wanted: Relation) -> list[Offer]:
        """Offers that satisfy a relation: the package itself newest first, then providers."""
        named = (*self._offers.get(wanted.name, []), *self._given.get(wanted.name, []))
        return [offer for offer in named if offer.satisfies(wanted, self.packaging)]

    def closure(self, roots: Mapping[str, str], prefer: str = "") -> dict[str, Offer]:
        """The packages that `roots` (name -> full version) need from this repository.

        `prefer` is an upstream version: a dependency that leaves the version open (the vendor's
        metas do, with >=) takes that one when it is offered, so that a driver's family stays
        together; else the newest. Raises Unsatisfied. Answers are remembered.
        """
        key = (tuple(sorted(roots.items())), prefer)
        if key not in self._closures:
            try:
                self._closures[key] = self._walk(dict(key[0]), prefer)
            except Unsatisfied as reason:
                self._closures[key] = reason
        found = self._closures[key]
        if isinstance(found, Unsatisfied):
            raise found
        return found

    def _walk(self, roots: dict[str, str], prefer: str) -> dict[str, Offer]:
        chosen: dict[str, Offer] = {}
        for name, version in roots.items():
            offer = self.offer(name, version)
            if offer is None:
                raise Unsatisfied(self.lacks(name, version))
            chosen[name] = offer
        waiting = list(chosen.values())
        while waiting:
            offer = waiting.pop(0)
            for group in offer.needs:
                if any(
                    one.satisfies(wanted, self.packaging)
                    for one in chosen.values()
                    for wanted in group
                ):
                    continue
                added = self._pick(offer, group, chosen, prefer)
                if added is not None:
                    chosen[added.name] = added
                    waiting.append(added)
        self._refuse_conflicts(chosen)
        return chosen

    def _pick(
        self, of: Offer, group: tuple[Relation, ...], chosen: dict[str, Offer], prefer: str
    ) -> Offer | None:
        if not any(self.known(wanted.name) for wanted in group):
            return None
        fitting = [
            offer
            for wanted in group
            for offer in self.candidates(wanted)
            if offer.name not in chosen
        ]
        if not fitting:
            if not all(self.known(wanted.name) for wanted in group):
                return None
            wish = " | ".join(str(wanted) for wanted in group)
            standing = [
                f"{chosen[wanted.name].name} {chosen[wanted.name].version} is chosen already"
                for wanted in group
                if wanted.name in chosen
            ]
            had = standing or [self.lacks(wanted.name) for wanted in group]
            raise Unsatisfied(f"{of.name} {of.version} needs {wish}: {', '.join(had)}")
        family = [offer for offer in fitting if upstream(offer.version) == prefer]
        return (family or fitting)[0]

    def lacks(self, name: str, version: str = "") -> str:
        """Say that a package or version is missing, and what there is instead."""
        had = self.versions(name)
        wanted = f"{name} {version}".strip()
        if not had:
            return f"the repository has no {name}"
        listed = ", ".join(had[:6]) + (", ..." if len(had) > 6 else "")
        return f"the repository has no {wanted} (it has {listed})"

    def _refuse_conflicts(self, chosen: dict[str, Offer]) -> None:
        for offer in chosen.values():
            for excluded in offer.excludes:
                for other in chosen.values():
                    if other.name != offer.name and other.satisfies(excluded, self.packaging):
                        raise Unsatisfied(
                            f"{offer.name} {offer.version} conflicts with "
                            f"{other.name} {other.version}"
                        )


def pins(offers: Mapping[str, Offer]) -> Packages:
    """Offers as the lock names them."""
    return {
        name: PackagePin(version=offers[name].version, size=offers[name].size)
        for name in sorted(offers)
    }


def pins_of(versions: Mapping[str, str], available: "Available | Unavailable") -> Packages:
    """Packages at the versions that a host has; their download size is 0 where nobody offers
    them."""
    offered = available if isinstance(available, Available) else None
    return {
        name: PackagePin(version=full, size=offered.size(name, full) if offered else 0)
        for name, full in versions.items()
    }


@dataclass(frozen=True)
class Unavailable:
    """No answer from any host about a repository; `reason` says why, for people."""

    reason: str


def demand(available: Available | Unavailable) -> Available:
    """The repository, or Refused with why no host could be asked."""
    if isinstance(available, Unavailable):
        raise Refused(
            "repository",
            f"the package repository could not be asked: {available.reason}",
            source="the vendor's repository, asked by a host of the fleet",
            unblock=("mend what it says, or set vendor_repository to a mirror",),
        )
    return available
