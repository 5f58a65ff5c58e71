"""Rows about operating systems that cannot all be true, each named."""

import re
from collections.abc import Iterator
from itertools import combinations
from string import Formatter
from typing import TYPE_CHECKING

from deploy.catalog.systems import BaseNames, Distribution, DriverNames, LibraryNames

if TYPE_CHECKING:
    from deploy.catalog.models import Catalogue

MACHINES = {"x86_64": "x86_64", "aarch64": "sbsa"}
"""Machine types, and the only name that the vendor's repositories may have for each: packages of
`aarch64` there are for embedded boards."""


def systems_contradict(catalogue: "Catalogue") -> Iterator[str]:
    """Every fault in distributions and packages."""
    for row in catalogue.distributions:
        yield from _distribution(catalogue, row)
        yield from _templates(f"packages: base of {row.name}", row.base, {"kernel"})
        yield from _templates(
            f"packages: libraries of {row.name}", row.libraries, {"major", "minor"}
        )
    for names in catalogue.driver_schemes:
        yield from _templates(f"packages: {_called(names)}", names, {"branch", "kernel"})
        yield from _names(names)
    for one, other in combinations(catalogue.driver_schemes, 2):
        if one.scheme == other.scheme and one.first <= other.last and other.first <= one.last:
            yield f"packages: {_called(one)} and {_called(other)} overlap"


def _called(names: DriverNames) -> str:
    return f"driver {names.scheme} {names.first}-{names.last}"


def _distribution(catalogue: "Catalogue", row: Distribution) -> Iterator[str]:
    if row.key not in catalogue.key:
        yield f"distributions: {row.name}: no key {row.key}"
    schemes = {names.scheme for names in catalogue.driver_schemes}
    for origin, scheme in row.origins.items():
        if scheme not in schemes:
            yield f"distributions: {row.name}: no driver scheme {scheme} in packages for {origin}"
    for machine, arch in row.arch.items():
        if MACHINES.get(machine) != arch.repository:
            yield f"distributions: {row.name}: {machine} is not {arch.repository} at the vendor"
        if not arch.wheels.startswith(machine):
            yield f"distributions: {row.name}: {machine} cannot run wheels of {arch.wheels}"
    for other in catalogue.distributions:
        if (
            other is not row
            and set(other.ids) & set(row.ids)
            and row.matches(row.ids[0], other.version)
        ):
            yield f"distributions: {row.name} also matches {other.title}"
    for pattern in (row.own_versions, *row.base.headers_by_kernel):
        try:
            re.compile(pattern)
        except re.error as error:
            yield f"distributions: {row.name}: {pattern!r}: {error}"


def _names(names: DriverNames) -> Iterator[str]:
    for flavour in ("open", "closed"):
        if names.prebuilt(flavour) and "{kernel}" not in names.prebuilt(flavour):
            yield f"packages: {_called(names)}: prebuilt modules name no {{kernel}}"
        if names.stream(flavour) and not names.module(flavour):
            yield f"packages: {_called(names)}: a stream for {flavour} modules that it has not"
    if names.first > names.last:
        yield f"packages: {_called(names)}: no branch lies in it"
    if any(not names.first <= branch <= names.last for branch in names.only):
        yield f"packages: {_called(names)}: names branches outside of it"


def _templates(
    where: str, names: BaseNames | DriverNames | LibraryNames, allowed: set[str]
) -> Iterator[str]:
    for key, value in names:
        if key in ("source", "headers_by_kernel", "extra_repositories", "only"):
            continue
        for template in value if isinstance(value, tuple) else (value,):
            if not isinstance(template, str):
                continue
            try:
                fields = {
                    field for _, field, _, _ in Formatter().parse(template) if field is not None
                }
            except ValueError as error:
                yield f"{where}: {key} {template!r}: {error}"
                continue
            if fields - allowed:
                yield f"{where}: {key} {template!r} has {{{min(fields - allowed)}}}"
