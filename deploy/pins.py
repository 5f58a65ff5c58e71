"""apt keeps to the locked versions whoever calls it.

The vendor's pinning package holds a branch; inside it an operator's `apt upgrade` would still move
the driver under running jobs, or the fabric manager away from its driver (dstackai/dstack PR 2355,
Azure/azhpc-images PR 86). A hold would prevent that too, but would stand in an operator's way.
"""

from deploy.facts import NodeFacts
from deploy.files import file_step
from deploy.known import known
from deploy.packages import difference, locked
from deploy.steps import Step, Wanted

NAME = "pins"
PATH = "/etc/apt/preferences.d/gpufleet.pref"
PRIORITY = 1001
"""One above the vendor's pinning package, which prefers the newest of its branch. From 1000 on apt
even goes back to a version (apt_preferences(5)), so the file is not written before its time."""


def text(wanted: Wanted) -> str:
    """One stanza for each version, its packages in order."""
    versions: dict[str, list[str]] = {}
    for name, pin in sorted(locked(wanted.stack).items()):
        versions.setdefault(pin.version, []).append(name)
    stanzas = [
        f"Package: {' '.join(names)}\nPin: version {version}\nPin-Priority: {PRIORITY}\n"
        for version, names in sorted(versions.items())
    ]
    return "# The locked versions. Written by gpufleet, which keeps this file as it is.\n\n" + (
        "\n".join(stanzas)
    )


def steps(wanted: Wanted, facts: NodeFacts) -> list[Step]:
    """The preferences file; disruptive while it would let apt move what a job may use."""
    pins = locked(wanted.stack)
    if not pins:
        return []
    moves = difference(pins, known(facts, "packages", facts.packages)).replaces
    return file_step(
        NAME,
        "apt prefers the locked versions",
        facts,
        PATH,
        text(wanted),
        disruptive=moves,
    )
