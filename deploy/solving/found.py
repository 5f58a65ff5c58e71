"""The driver that a host has now, from its packages, its modules and what is loaded."""

import re
from dataclasses import dataclass

from deploy.catalog.models import Catalogue, numbers
from deploy.catalog.systems import Distribution
from deploy.facts import Flavour, NodeFacts
from deploy.solving.refusal import Refused
from deploy.solving.versions import upstream
from deploy.stack import Origin


@dataclass(frozen=True)
class Standing:
    """The driver that a host has now."""

    version: str
    flavour: Flavour | None
    loaded: str
    """Version of the loaded module, "" when none is."""
    packages: tuple[tuple[str, str], ...]
    """Installed packages of this driver version: name, full version."""
    origin: Origin = "vendor"
    """Whose names its packages have; the vendor's when they tell nothing."""


_VERSION = re.compile(r"\d{3}(\.\d{2,3}){1,2}")


@dataclass(frozen=True)
class _Packaged:
    """An installed package with kernel modules."""

    version: str
    flavour: Flavour
    origin: Origin


def _packaged(
    row: Distribution, installed: dict[str, str], catalogue: Catalogue
) -> list[_Packaged]:
    """Packages with kernel modules, open ones and the vendor's first."""
    found = []
    for name, full in installed.items():
        version = upstream(full)
        if not _VERSION.fullmatch(version):
            continue
        own = bool(row.own_versions and re.search(row.own_versions, full))
        for scheme in row.origins:
            names = catalogue.driver_names(row.name, scheme, numbers(version)[0])
            if names and name in (names.module_open, names.module_closed):
                flavour: Flavour = "open" if name == names.module_open else "closed"
                origin: Origin = "distribution" if own else scheme
                found.append(_Packaged(version, flavour, origin))
    return sorted(found, key=lambda one: (one.flavour != "open", one.origin != "vendor"))


def standing_driver(
    facts: NodeFacts, row: Distribution, installed: dict[str, str], catalogue: Catalogue
) -> Standing | None:
    """The driver as installed: the module package's version, else the module file's, else the
    loaded one's. A driver that is loaded while packages moved on counts as the packages say:
    the next boot runs that."""
    modules, kernel = facts.modules, facts.kernel
    assert modules is not None
    packaged = _packaged(row, installed, catalogue)
    for_kernel = [
        one for one in modules.installed if kernel is None or one.kernel == kernel.running
    ]
    if packaged:
        version = packaged[0].version
    elif for_kernel:
        version = for_kernel[0].version
    else:
        version = modules.loaded_version
    if not version:
        return None
    if not _VERSION.fullmatch(version):
        raise Refused(
            "unknown-facts",
            f"the installed driver calls itself {version!r}, which is no driver version",
            source="unknown never means fine",
        )
    flavours: list[Flavour | None] = [one.flavour for one in for_kernel if one.version == version]
    if modules.loaded_version == version:
        flavours.append(modules.loaded_flavour)
    if packaged:
        flavours.append(packaged[0].flavour)
    return Standing(
        version=version,
        flavour=next((flavour for flavour in flavours if flavour), None),
        loaded=modules.loaded_version,
        packages=tuple(
            sorted((name, full) for name, full in installed.items() if upstream(full) == version)
        ),
        origin=packaged[0].origin if packaged else "vendor",
    )
