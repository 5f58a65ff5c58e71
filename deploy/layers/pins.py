"""The package system keeps to the locked versions whoever calls it.

The vendor's pinning package or module stream holds a branch; inside it an operator's upgrade
would still move the driver under running jobs, or the fabric manager away from its driver
(dstackai/dstack PR 2355, Azure/azhpc-images PR 86). A hold would prevent that too, but would stand
in an operator's way. dnf 4 has versionlock, with one file for everybody's entries: ours stand in a
block of their own there, and the others are not touched.
"""

from deploy.facts import NodeFacts
from deploy.known import known
from deploy.layers.files import file_step
from deploy.packages import difference, locked
from deploy.probing.rpm_facts import BEGIN, END, LOCKS
from deploy.shell import assign, script
from deploy.steps import Command, Step, Wanted

NAME = "pins"
PATH = "/etc/apt/preferences.d/gpufleet.pref"
PRIORITY = 1001
"""One above the vendor's pinning package, which prefers the newest of its branch. From 1000 on apt
even goes back to a version (apt_preferences(5)), so the file is not written before its time."""

_LOCK = """\
new=$(mktemp "$list.gpufleet.XXXXXX")
trap 'rm -f "$new"' EXIT
trap 'exit 143' HUP INT TERM
[ ! -e "$list" ] || BEGIN="$begin" END="$end" awk '
    index($0, ENVIRON["BEGIN"]) == 1 { inside = 1; block = ""; next }
    inside && index($0, ENVIRON["END"]) == 1 { inside = 0; next }
    inside { block = block $0 "\\n"; next }
    { print }
    END { if (inside) printf "%s", block }
' "$list" >"$new"
cat >>"$new"
chmod 644 "$new"
sync "$new"
mv -fT "$new" "$list"
"""


def text(wanted: Wanted) -> str:
    """apt: one stanza for each version, its packages in order."""
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


def locks(wanted: Wanted) -> tuple[str, ...]:
    """dnf: one entry for each package, in versionlock's own form: epoch, any architecture."""
    entries = []
    for name, pin in sorted(locked(wanted.stack).items()):
        full = pin.version if ":" in pin.version else f"0:{pin.version}"
        entries.append(f"{name}-{full}.*")
    return tuple(entries)


def steps(wanted: Wanted, facts: NodeFacts) -> list[Step]:
    """The preferences or the locks; disruptive while they would let an upgrade move what a job may
    use."""
    pins = locked(wanted.stack)
    if not pins:
        return []
    moves = difference(pins, known(facts, "packages", facts.packages)).replaces
    if wanted.stack.packaging == "dnf":
        return _locked(wanted, facts, disruptive=moves)
    return file_step(
        NAME,
        "apt prefers the locked versions",
        facts,
        PATH,
        text(wanted),
        disruptive=moves,
    )


def _locked(wanted: Wanted, facts: NodeFacts, *, disruptive: bool) -> list[Step]:
    wish, found = locks(wanted), known(facts, "own_versionlocks", facts.own_versionlocks)
    if found == wish:
        return []
    missing, stale = len(set(wish) - set(found)), len(set(found) - set(wish))
    block = (BEGIN + ": the locked versions; gpufleet keeps this block as it is", *wish, END)
    command = Command(
        shell=script(assign(list=LOCKS, begin=BEGIN, end=END), _LOCK),
        stdin="".join(f"{line}\n" for line in block),
        timeout_s=60,
    )
    return [
        Step(
            layer=NAME,
            title="dnf keeps the locked versions",
            why=f"{LOCKS}: {missing} of {len(wish)} are not locked, {stale} locked otherwise",
            commands=(command,),
            disruptive=disruptive,
        )
    ]
