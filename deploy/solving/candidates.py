"""Driver versions that are offered, and the order in which a wish or a policy takes them."""

from collections.abc import Iterator
from dataclasses import dataclass

from deploy.catalog.models import Branch, Catalogue, numbers
from deploy.catalog.systems import DriverNames
from deploy.facts import Flavour
from deploy.fleet.spec import NodeSpec
from deploy.solving.offers import Available, Unavailable, matches, upstream
from deploy.solving.situation import Situation
from deploy.stack import Origin

FLAVOURS: tuple[Flavour, ...] = ("open", "closed")


@dataclass(frozen=True)
class Candidate:
    """A driver version that an origin offers, with its names."""

    origin: Origin
    full: str
    version: str
    names: DriverNames

    @property
    def branch(self) -> int:
        """Number of its branch."""
        return numbers(self.version)[0]


def offered(
    seen: Situation,
    catalogue: Catalogue,
    available: Available,
    flavour: Flavour,
    origin: Origin,
) -> list[Candidate]:
    """Every driver version that an origin offers in a flavour, the newest first."""
    found = []
    known = {row.number for row in catalogue.branches}
    for branch in sorted(known | available.branches, reverse=True):
        names = catalogue.driver_names(seen.distribution, origin, branch)
        if names is None or not names.module(flavour):
            continue
        for full in available.of(origin, names.stream(flavour)).versions(names.module(flavour)):
            version = upstream(full)
            if version.split(".")[0] == str(branch):
                found.append(Candidate(origin, full, version, names))
    return found


@dataclass(frozen=True)
class Tier:
    """Candidates that are equally good by type of branch; the newest comes first."""

    kind: str
    """For people: "LTS", "production", "" for any."""
    candidates: tuple[Candidate, ...]


def tiers(spec: NodeSpec, offers: list[Candidate], catalogue: Catalogue) -> Iterator[Tier]:
    """What the wish or the policy takes, the best first. `keep` on a bare host is the newest LTS
    driver, and the newest production driver where no LTS driver is to be had."""
    if spec.driver:
        wish = spec.driver
        yield Tier("", tuple(one for one in offers if matches(one.version, wish)))
        return
    types: dict[str, tuple[str, ...]] = {
        "keep": ("lts", "production"),
        "lts": ("lts",),
        "production": ("production",),
        "newest": ("",),
    }
    for wanted in types[spec.policy]:
        taken = tuple(
            one
            for one in offers
            if (row := catalogue.branch.get(one.branch)) and wanted in ("", row.type)
        )
        yield Tier({"lts": "LTS", "": ""}.get(wanted, wanted), taken)


def newest_of_branches(
    seen: Situation, catalogue: Catalogue, available: Available | Unavailable
) -> list[str]:
    """The newest offered driver of each long-lived branch, LTS before production."""
    if isinstance(available, Unavailable) or not seen.gpus:
        return []
    newest: dict[tuple[bool, int], str] = {}
    for origin in seen.row(catalogue).origins:
        for flavour in FLAVOURS:
            for one in offered(seen, catalogue, available, flavour, origin):
                row = catalogue.branch.get(one.branch)
                if row and row.type in ("lts", "production") and not row.ended:
                    key = (row.type != "lts", -row.number)
                    newest[key] = max(newest.get(key, one.version), one.version, key=numbers)
    return [newest[key] for key in sorted(newest)]


def taken_type(row: Branch | None) -> str:
    """The type of a branch for people."""
    return {"lts": "LTS"}.get(row.type, row.type) if row else "unknown"
