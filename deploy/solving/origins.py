"""Who signs a host's driver: the vendor's repository or the distribution's own packages.

One origin per host. Both at once break hosts: their packages own the same files under different
names, and nothing keeps their versions together (research: provisioning 2.6).
"""

import re

from deploy.catalog.models import Catalogue, numbers
from deploy.catalog.systems import DriverNames
from deploy.fleet.spec import NodeSpec
from deploy.solving.hardware import limits
from deploy.solving.offers import upstream
from deploy.solving.refusal import Refused, listed
from deploy.solving.situation import Situation
from deploy.stack import Origin

RULE = "one origin of driver packages per host (research: provisioning 2.6)"
WORDS: dict[Origin, str] = {"vendor": "the vendor's", "distribution": "the distribution's own"}


def origins(spec: NodeSpec, seen: Situation, catalogue: Catalogue) -> tuple[Origin, ...]:
    """Whose packages may make this host's driver, the first choice first. Raises Refused.

    What is installed decides before anything but the inventory's own word: a driver of one origin
    is never changed for the other's silently, where their packages have different names.
    """
    row = seen.row(catalogue)
    if spec.origin != "auto":
        if spec.origin not in row.origins:
            raise Refused(
                "origin",
                f"origin {spec.origin} is wished, but {row.title} has no driver packages of its "
                "own that the catalogue knows",
                source=catalogue.source("distributions", row.source),
                unblock=("leave origin out",),
            )
        return (spec.origin,)
    standing = seen.driver.origin if seen.driver and seen.driver.packages else None
    if standing and not replaces_by_name(seen, catalogue):
        return (standing,)
    own = asks_own_sources(spec, seen, catalogue)
    return tuple(origin for origin in row.origins if origin == "vendor" or own)


def replaces_by_name(seen: Situation, catalogue: Catalogue) -> bool:
    """Whether another origin's driver has the standing one's package names, as Debian's own: an
    upgrade then replaces each of them, and nothing of both is left beside each other."""
    assert seen.driver is not None
    named = {name for name, _ in seen.driver.packages}
    others = [origin for origin in seen.row(catalogue).origins if origin != seen.driver.origin]
    return any(
        name in named
        for row in catalogue.branches
        for origin in others
        if (names := catalogue.driver_names(seen.distribution, origin, row.number))
        for name in (names.module_open, names.module_closed)
    )


def asks_own_sources(spec: NodeSpec, seen: Situation, catalogue: Catalogue) -> bool:
    """Whether the host's own package sources count too: its distribution's driver is wished,
    stands, or may be the only one that works here. They are asked, and looked into, only then."""
    row = seen.row(catalogue)
    if not seen.gpus or "distribution" not in row.origins or spec.origin == "vendor":
        return False
    if spec.origin == "distribution" or seen.secure_boot not in ("disabled", "no-efi"):
        return True
    if seen.driver and seen.driver.origin == "distribution":
        return True
    first = seen.arch(catalogue).vendor_first
    if spec.driver:
        wished = {numbers(spec.driver)[0]} if spec.driver[0].isdigit() else set()
    else:
        wished = {row.number for row in catalogue.branches if row.type == spec.policy}
    return any(high < first for _, high, _ in limits(seen, catalogue)) or (
        bool(wished) and max(wished) < first
    )


def refuse_mixed(seen: Situation, why: Refused) -> Refused:
    """What to say when the standing origin cannot bring about what is wished and the other one is
    not taken instead. `why` is what was said about the standing one."""
    assert seen.driver is not None
    standing = seen.driver
    other: Origin = "vendor" if standing.origin == "distribution" else "distribution"
    names = [name for name, _ in standing.packages]
    return Refused(
        "mixed-origin",
        f"driver {standing.version} is {WORDS[standing.origin]} ({listed(names[:3])}), and that "
        f"origin cannot bring about what is wished: {why.reason}; {WORDS[other]} would be mixed "
        "with it (mixed origin)",
        source=RULE,
        unblock=(f'origin = "{other}"', *why.unblock),
    )


def beside(seen: Situation, catalogue: Catalogue) -> list[str]:
    """Installed driver packages of another origin than the standing driver's, "name version"."""
    if seen.driver is None or not seen.driver.packages:
        return []
    row, mine = seen.row(catalogue), seen.driver.origin
    found = []
    for name, full in seen.installed:
        branch = upstream(full).partition(".")[0]
        if not re.fullmatch(r"\d{3}", branch):
            continue
        here = {
            origin for origin in row.origins
            if name in _user_space(catalogue.driver_names(row.name, origin, int(branch)))
        }  # fmt: skip
        if here and row.own_versions and re.search(row.own_versions, full):
            here = {"distribution"}
        if here and mine not in here:
            found.append(f"{name} {full}")
    return found


def _user_space(names: DriverNames | None) -> tuple[str, ...]:
    if names is None:
        return ()
    modules = (names.module_open, names.module_closed)
    return (*modules, *names.driver, *names.coherent, *names.fabric_nvswitch)
