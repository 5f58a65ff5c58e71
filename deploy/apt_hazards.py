"""apt's preferences of somebody else against the locked versions. Pure.

Tried with apt 2.6: for one version of a package the first stanza that names the package (itself,
by a glob or by a regular expression) decides, in the order of reading: /etc/apt/preferences, then
/etc/apt/preferences.d by file name. `Package: *` counts only where no other stanza names the
package. Two versions may so have two priorities, and the higher one wins.
"""

import re
from collections.abc import Iterable, Iterator
from fnmatch import fnmatchcase
from urllib.parse import urlsplit

from deploy.catalog import load
from deploy.facts import NodeFacts, Pin
from deploy.layers.pins import PATH, PRIORITY
from deploy.packages import locked
from deploy.stack import Packages
from deploy.steps import Wanted


def warnings(wanted: Wanted, facts: NodeFacts) -> Iterator[str]:
    """Stanzas that would win over the locked versions, do nothing, or hide what is needed."""
    theirs = sorted((pin for pin in facts.pins or () if pin.path != PATH), key=_read)
    pins = locked(wanted.stack)
    repository = wanted.stack.repository
    vendor = (urlsplit(repository.url).hostname or "") if repository else ""
    for pin in theirs:
        yield from _wins(pin, pins, vendor)
    yield from _twice(theirs)
    for path in sorted({pin.path for pin in facts.ignored_pins or ()}):
        yield (
            f"{path} pins GPU packages or their prerequisites and apt does not read it: a file "
            "there needs a name of letters, digits, - and _, ending in .pref or in nothing "
            "(apt_preferences(5))"
        )
    yield from _hidden(wanted, facts, theirs)


def _read(pin: Pin) -> tuple[bool, str]:
    """apt's order of reading."""
    return "/preferences.d/" in pin.path, pin.path


def _wins(pin: Pin, pins: Packages, vendor: str) -> Iterator[str]:
    if pin.package.strip() == "*":
        return
    before = _read(pin) < (True, PATH)
    overruled, moved = [], []
    for name, locked_pin in pins.items():
        if not _names(pin.package, name) or _only(pin.pin, locked_pin.version):
            continue
        if before and _may_match(pin.pin, locked_pin.version, vendor):
            overruled.append(name)
        elif pin.priority >= PRIORITY:
            moved.append(name)
    told = f"{pin.path}: `Package: {pin.package}`, `Pin: {pin.pin}`, priority {pin.priority}"
    if overruled:
        yield (
            f"{told} is read before the locked versions' pins and decides for {few(overruled)}: "
            "apt will not hold them; remove it, or give the file a name that sorts after "
            f"{PATH.rpartition('/')[2]}"
        )
    if moved:
        yield (
            f"{told} is not below the locked versions' {PRIORITY}: apt would move {few(moved)} to "
            "what it names; remove it"
        )


def _twice(theirs: list[Pin]) -> Iterator[str]:
    first: dict[tuple[str, str], Pin] = {}
    for pin in theirs:
        for word in pin.package.split():
            earlier = first.setdefault((word, pin.pin), pin)
            if earlier is not pin:
                yield (
                    f"{pin.path}: `Package: {word}`, `Pin: {pin.pin}` (priority {pin.priority}) "
                    f"does nothing: {earlier.path} says the same (priority {earlier.priority}) "
                    "and is read first"
                )


def _hidden(wanted: Wanted, facts: NodeFacts, theirs: list[Pin]) -> Iterator[str]:
    """Prerequisites that a negative pin leaves without a candidate."""
    packages = facts.packages or {}
    base = load().named(wanted.stack.distribution).base
    needed = {*base.dkms, *base.compiler, *base.venv, *base.python_headers}
    for name, candidate in sorted((facts.candidates or {}).items()):
        if name not in needed or name in packages or candidate.candidate:
            continue
        for pin in theirs:
            if pin.priority < 0 and (pin.package.strip() == "*" or _names(pin.package, name)):
                yield (
                    f"apt has no candidate for {name}, and {pin.path} forbids one (`Package: "
                    f"{pin.package}`, `Pin: {pin.pin}`, priority {pin.priority}): installing it "
                    f"would fail; see apt-cache policy {name}"
                )


def _names(patterns: str, name: str) -> bool:
    """Whether a Package field names a package: literally, by glob or by /regular expression/."""
    for word in patterns.split():
        if word == "*":
            continue
        if len(word) > 2 and word[0] == word[-1] == "/":
            try:
                if re.search(word[1:-1], name):
                    return True
            except re.error:
                continue
        elif fnmatchcase(name, word):
            return True
    return False


def _only(pin: str, version: str) -> bool:
    """The pin names exactly this version, so it helps."""
    kind, _, value = pin.partition(" ")
    return kind == "version" and value.strip() == version


def _may_match(pin: str, version: str, vendor: str) -> bool:
    """Whether a Pin field may match a locked version; what cannot be told may."""
    kind, _, value = pin.partition(" ")
    value = value.strip().strip('"')
    if kind == "version":
        return fnmatchcase(version, value)
    if kind == "origin" and vendor:
        return fnmatchcase(vendor, value)
    owner = re.search(r"\b[ol]=([^,]+)", value) if kind == "release" else None
    return owner is None or not vendor or "nvidia" in owner[1].lower()


def few(names: Iterable[str], shown: int = 3) -> str:
    """The first names, and how many more there are."""
    every = sorted(names)
    rest = len(every) - shown
    return ", ".join(every[:shown]) + (f" and {rest} more" if rest > 0 else "")
