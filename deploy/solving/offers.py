"""What a package repository offers, and the closure of packages that a wish pulls in.

Debian's order of versions and its relations are python-debian's; `closure` walks them inside the
vendor's repository only. What the repository does not name (libc6, dkms) is left to the
distribution.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property, cmp_to_key, lru_cache

from debian.deb822 import PkgRelation
from debian.debian_support import NativeVersion, version_compare

from deploy.solving.refusal import Refused
from deploy.stack import PackagePin, Packages, Repository


@lru_cache(maxsize=100_000)
def compare(first: str, second: str) -> int:
    """Debian's order: negative, zero or positive."""
    return int(version_compare(first, second))


NEWEST_FIRST = cmp_to_key(lambda first, second: compare(second, first))


@lru_cache(maxsize=100_000)
def upstream(version: str) -> str:
    """The vendor's number in a package version: 580.178.04-1 -> 580.178.04; "" when dpkg would
    not take it for a version."""
    try:
        return str(NativeVersion(version).upstream_version)
    except ValueError:
        return ""


@dataclass(frozen=True)
class Relation:
    """One alternative of a dependency: a name, and a version that it must stand in relation to."""

    name: str
    operator: str = ""
    version: str = ""

    def allows(self, version: str) -> bool:
        """Whether a version stands in the wanted relation; "" is a name without a version."""
        if not self.operator:
            return True
        if not version:
            return False
        order = compare(version, self.version)
        return {
            "=": order == 0,
            ">=": order >= 0,
            "<=": order <= 0,
            ">>": order > 0,
            "<<": order < 0,
        }.get(self.operator, False)

    def __str__(self) -> str:
        return f"{self.name} ({self.operator} {self.version})" if self.operator else self.name


def relations(text: str) -> tuple[tuple[Relation, ...], ...]:
    """A dependency field: groups that must all hold, of alternatives of which one must."""
    if not text:
        return ()
    return tuple(
        tuple(Relation(str(one["name"]), *(one["version"] or ("", ""))) for one in alternatives)
        for alternatives in PkgRelation.parse_relations(text)
    )


@dataclass(frozen=True)
class Offer:
    """One package at one version, as a Packages index lists it."""

    name: str
    version: str
    size: int = 0
    depends: str = field(default="", repr=False)
    """Pre-Depends and Depends together."""
    provides: str = field(default="", repr=False)
    conflicts: str = field(default="", repr=False)
    """Conflicts and Breaks together."""

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

    def satisfies(self, wanted: Relation) -> bool:
        """Whether installing it fulfils a dependency, by its own name or one it provides."""
        return any(
            given.name == wanted.name and wanted.allows(given.version) for given in self.given
        )


class Unsatisfied(Exception):  # noqa: N818 - an answer, not a fault
    """The repository cannot bring this wish about; the message says what is missing."""


class Available:
    """Everything that one repository offers one distribution and machine type. Compared by
    identity: one object per answer, so that results about it can be remembered."""

    def __init__(self, repository: Repository, offers: Iterator[Offer] | list[Offer]) -> None:
        self.repository = repository
        self._closures: dict[
            tuple[tuple[tuple[str, str], ...], str], dict[str, Offer] | Unsatisfied
        ] = {}
        self._offers: dict[str, list[Offer]] = {}
        self._given: dict[str, list[Offer]] = {}
        for offer in offers:
            self._offers.setdefault(offer.name, []).append(offer)
        for members in self._offers.values():
            members.sort(key=lambda offer: NEWEST_FIRST(offer.version))
        for name in sorted(self._offers):
            for offer in self._offers[name]:
                for given in offer.given[1:]:
                    self._given.setdefault(given.name, []).append(offer)

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

    def known(self, name: str) -> bool:
        """Whether the repository has a package of this name, or one that provides it."""
        return name in self._offers or name in self._given

    def candidates(self, wanted: Relation) -> list[Offer]:
        """Offers that satisfy a relation: the package itself newest first, then providers."""
        direct = [offer for offer in self._offers.get(wanted.name, []) if offer.satisfies(wanted)]
        return direct + [
            offer for offer in self._given.get(wanted.name, []) if offer.satisfies(wanted)
        ]

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
                if any(one.satisfies(wanted) for one in chosen.values() for wanted in group):
                    continue
                added = self._pick(offer, group, chosen, prefer)
                if added is not None:
                    chosen[added.name] = added
                    waiting.append(added)
        _refuse_conflicts(chosen)
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


def _refuse_conflicts(chosen: dict[str, Offer]) -> None:
    for offer in chosen.values():
        for excluded in offer.excludes:
            for other in chosen.values():
                if other.name != offer.name and other.satisfies(excluded):
                    raise Unsatisfied(
                        f"{offer.name} {offer.version} conflicts with {other.name} {other.version}"
                    )


def pins(offers: Mapping[str, Offer]) -> Packages:
    """Offers as the lock names them."""
    return {
        name: PackagePin(version=offers[name].version, size=offers[name].size)
        for name in sorted(offers)
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


def matches(version: str, wish: str) -> bool:
    """Whether a version is the wished one or of the wished branch: 580 matches 580.178.04."""
    return version == wish or version.startswith(wish + ".")
