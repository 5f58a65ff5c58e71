"""What a host's packages lack against the locked ones."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from debian.debian_support import Version

from deploy.facts import Package
from deploy.stack import Packages, Stack


def installed(package: Package | None) -> bool:
    """The package is unpacked and configured (held or not)."""
    return package is not None and package.state[1:2] == "i" and package.state[2:].strip() == ""


def _present(package: Package | None) -> bool:
    return package is not None and package.state[1:2] not in {"n", "c", ""}


def upstream(version: str) -> str:
    """The version without epoch and packaging revision: 580.178.04 of 580.178.04-1. A host can
    answer anything; what is no version is returned as it is."""
    try:
        return Version(version).upstream_version or version
    except ValueError:
        return version


def _newer(found: str, wanted: str) -> bool:
    try:
        return bool(Version(found) > Version(wanted))
    except ValueError:
        return False


@dataclass(frozen=True)
class Difference:
    """What a set of packages lacks against its exact versions."""

    missing: tuple[str, ...]
    moved: tuple[str, ...]
    """Installed at another version."""
    broken: tuple[str, ...]
    """At the right version, but unpacked or configured only in part."""
    downgrade: bool
    held: tuple[str, ...]
    """Those of `moved` and `broken` that are on hold."""
    why: str
    download: int
    """Bytes still to fetch as far as the lock knows; 0 for those that dpkg has unpacked."""

    def __bool__(self) -> bool:
        return bool(self.missing or self.moved or self.broken)

    @property
    def replaces(self) -> bool:
        """Files change under whoever uses them now."""
        return bool(self.moved or self.broken)


def difference(pins: Packages, packages: Mapping[str, Package]) -> Difference:
    """How the host's packages differ from the pinned ones."""
    missing, moved, broken, held = [], [], [], []
    for name, pin in sorted(pins.items()):
        found = packages.get(name)
        if found is None or not _present(found):
            missing.append(name)
        elif found.version != pin.version:
            moved.append(name)
        elif not installed(found):
            broken.append(name)
        if found is not None and found.held and name in {*moved, *broken}:
            held.append(name)
    said = [f"not installed: {_few(missing)}"] if missing else []
    for version in sorted({packages[name].version for name in moved}):
        names = [name for name in moved if packages[name].version == version]
        wanted = "/".join(sorted({pins[name].version for name in names}))
        said.append(f"{_few(names)} found at {version}, wanted {wanted}")
    if broken:
        states = [f"{name} ({packages[name].state.strip()})" for name in broken]
        said.append(f"installed only in part: {_few(states)}")
    return Difference(
        missing=tuple(missing),
        moved=tuple(moved),
        broken=tuple(broken),
        downgrade=any(_newer(packages[name].version, pins[name].version) for name in moved),
        held=tuple(held),
        why="; ".join(said) + (f"; on hold: {_few(held)}" if held else ""),
        download=sum(pins[name].size for name in (*missing, *moved)),
    )


def _few(names: Iterable[str], shown: int = 3) -> str:
    every = list(names)
    rest = len(every) - shown
    return ", ".join(every[:shown]) + (f" and {rest} more" if rest > 0 else "")


def locked(stack: Stack) -> Packages:
    """Every package that the stack names, at its version."""
    pins: Packages = {}
    if stack.driver is not None:
        pins |= stack.driver.pinning | stack.driver.packages
    for _name, part in stack.components:
        pins |= part.packages
    return pins


def names_like(packages: Mapping[str, Package], pattern: str) -> list[str]:
    """Installed packages whose whole name matches, sorted."""
    return sorted(
        name for name, found in packages.items() if _present(found) and re.fullmatch(pattern, name)
    )
