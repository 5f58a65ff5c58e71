"""dnf's streams, excludes and locks of somebody else against the locked versions. Pure.

apply does not fail for them, but for excludes (research, provisioning 2.7): its transactions leave
versionlock out. What is told is what dnf by hand would do.
"""

import re
from collections.abc import Iterator
from fnmatch import fnmatchcase
from itertools import product

from deploy.apt_hazards import few
from deploy.facts import NodeFacts
from deploy.interest import GPU_PACKAGES
from deploy.packages import locked
from deploy.probing.rpm_facts import LOCKS, locked_name
from deploy.stack import Packages
from deploy.steps import Wanted


def warnings(wanted: Wanted, facts: NodeFacts) -> Iterator[str]:
    """Streams, excludes and locks that hide what the lock names."""
    pins = locked(wanted.stack)
    yield from _stream(wanted, facts)
    yield from _excluded(facts, pins)
    yield from _locks(wanted, facts, pins)


def _locks(wanted: Wanted, facts: NodeFacts, pins: Packages) -> Iterator[str]:
    entries, hidden = [], set()
    for entry in facts.versionlocks or ():
        against = {
            name
            for name, pin in pins.items()
            if _forbids(entry, name, pin.version, wanted.stack.arch)
        }
        entries += [entry] if against else []
        hidden |= against
    if entries:
        yield (
            f"{LOCKS}: {few(f'`{entry}`' for entry in entries)} "
            f"{'does' if len(entries) == 1 else 'do'} not allow the locked version of "
            f"{few(hidden)}: apply goes around that, and dnf by hand would then hide what is "
            "installed; remove it (dnf versionlock delete)"
        )


def _stream(wanted: Wanted, facts: NodeFacts) -> Iterator[str]:
    """The driver layer sets the stream that its driver is of; nobody sets another one back."""
    driver = wanted.stack.driver
    if driver is None:
        return
    own = driver.stream.partition(":")[0]
    for name, found in sorted((facts.streams or {}).items()):
        if re.search(GPU_PACKAGES, name) and name != own:
            yield (
                f"module stream {name}:{found} is enabled, and the locked driver is of no stream "
                f"of {name}: dnf takes packages of that stream only; see dnf module list {name}, "
                f"and dnf module reset {name}"
            )


def _excluded(facts: NodeFacts, pins: Packages) -> Iterator[str]:
    for pin in facts.pins or ():
        words = pin.package.split()
        hidden = [name for name in pins if any(fnmatchcase(name, word) for word in words)]
        if hidden:
            yield (
                f"{pin.path}: {pin.pin} ({pin.package}) hides {few(hidden)}, which the lock names: "
                "dnf does not find them; take them out of that line"
            )


def _forbids(entry: str, name: str, version: str, arch: str) -> bool:
    """Whether an entry of versionlock hides this package at this version. An entry is a pattern of
    name-epoch:version-release.arch; with ! it hides what matches, else everything else."""
    pattern = entry.removeprefix("!")
    epoch, _, rest = version.rpartition(":")
    spelled = product((f"{epoch or 0}:{rest}", rest), ("", f".{arch}", ".noarch"))
    matched = any(fnmatchcase(f"{name}-{form}{end}", pattern) for form, end in spelled)
    if entry.startswith("!"):
        return matched
    return fnmatchcase(name, locked_name(entry)) and not matched
