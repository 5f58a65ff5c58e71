"""The probe: the script that runs on a host, and the way from its answer to `NodeFacts`.

The answer comes from a host that may be broken or hostile: it is bounded in size, framed by a
random word that no payload line can forge, and every character that a terminal could obey is
escaped before anything else looks at it.
"""

import re
import secrets
import shlex
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from deploy import interest
from deploy.facts import PROBE_VERSION, NodeFacts, Package, Service
from deploy.fleet.places import places
from deploy.fleet.spec import NodeSpec
from deploy.probing.foreign import foreign_owners
from deploy.probing.probe_parts import FIELDS, READERS, Values
from deploy.probing.rdma_facts import SYMBOL as PEERMEM_SYMBOL
from deploy.probing.rpm_facts import locked_by_others
from deploy.probing.setting_facts import FIELDS as GPU_FIELDS

MANIFEST_NAME = ".gpufleet-manifest"
MANIFEST_COMMAND = (
    rf"find . ! -type d ! -name '*.pyc' ! -name {MANIFEST_NAME} -printf '%P %s\n' "
    "| LC_ALL=C sort | sha256sum | cut -d ' ' -f 1"
)
"""Digest of an environment, run inside its directory: names and sizes of all files but compiled
Python. Written into the manifest by what builds the environment and compared by the probe."""

MOST_CHARACTERS = 3_000_000
"""More than the script's own limits allow is no answer of the script."""


class BadProbe(Exception):  # noqa: N818 - reads as what it is at every raise
    """The answer of a host is no answer: truncated, mixed up, too large or of another version."""

    def __init__(self, host: str, reason: str) -> None:
        self.host = host
        self.reason = reason
        super().__init__(f"{host}: the probe's answer cannot be used: {reason}")


def new_nonce() -> str:
    """A word that frames one answer and that nothing on the host can know before."""
    return f"gpufleet-{secrets.token_hex(8)}"


def script(nonce: str, spec: NodeSpec) -> str:
    """The text for `sh -s`. Paths are checked values of the spec; quoted all the same."""
    where = places(spec)
    values = {
        "NONCE": nonce,
        "PREFIX": spec.prefix,
        "STATE": where.state,
        "EXPECTED": where.expected,
        "INTEREST": interest.PACKAGES,
        "POLICY": " ".join(interest.CANDIDATES),
        "RPM_POLICY": " ".join(interest.RPM_CANDIDATES),
        "SERVICES": " ".join(interest.SERVICES),
        "MANIFEST": MANIFEST_COMMAND,
        "GPU_FIELDS": ",".join(GPU_FIELDS),
        "SYMBOL": PEERMEM_SYMBOL,
    }
    lines = [f"{name}={shlex.quote(value)}" for name, value in values.items()]
    return "\n".join([*lines, _body()])


@cache
def _body() -> str:
    return (Path(__file__).parent / "probe.sh").read_text()


def parse(host: str, nonce: str, text: str) -> NodeFacts:
    """Facts from what the script printed, whatever a login shell printed before it.

    Pure. A part that failed on the host, or whose lines make no sense, becomes None and a reason
    in `unknown`. Raises BadProbe when the answer as a whole cannot be trusted, never anything else.
    """
    frames = _frames(host, nonce, text)
    values: Values = {"root": frames.uid == "0"}
    unknown: dict[str, str] = {}
    for name, read in READERS.items():
        part = frames.parts.get(name)
        if part is None:
            raise BadProbe(host, f"part {name} is missing")
        why = part.why
        if not why:
            try:
                values |= read(part.lines, frames.uid == "0", unknown)
                continue
            except (ValueError, IndexError, KeyError) as error:
                why = f"the answer makes no sense ({str(error)[:100]})"
        unknown |= {field: why for field in FIELDS[name]}
    _join(values)
    values["foreign"] = foreign_owners(values)
    if values["foreign"] is None:
        unknown.setdefault("foreign", "packages or modules are unknown")
    if not values["root"]:
        unknown.setdefault("root", f"the probe ran as {frames.user}, not as root")
    fields: Any = {name: values.get(name) for name in NodeFacts.model_fields if name in _PARTS}
    for name, value in fields.items():
        if value is None:
            unknown.setdefault(name, "not in the answer")
    try:
        return NodeFacts(host=host, root=bool(values["root"]), unknown=unknown, **fields)
    except ValueError as error:
        raise BadProbe(host, f"values out of bounds ({str(error)[:200]})") from None


def _join(values: Values) -> None:
    """What takes more than one part to tell."""
    holders = [values.get(key, "") for key in ("lock_holder", "dnf_lock_holder")]
    if (dpkg := values.get("dpkg")) and any(holders):
        holder = ", ".join(filter(None, holders))
        values["dpkg"] = dpkg.model_copy(update={"lock_holder": holder})
    upgrades, packages = values.get("auto_upgrades"), values.get("packages")
    if upgrades is None or packages is None:
        values["auto_upgrades"] = None
    else:
        enabled = _upgrades_run(upgrades.enabled, packages, values.get("services") or {})
        values["auto_upgrades"] = upgrades.model_copy(update={"enabled": enabled})
    if packages is not None and (locks := values.get("versionlocks")):
        values["packages"] = locked_by_others(packages, locks)


def _upgrades_run(asked: bool, packages: dict[str, Package], services: dict[str, Service]) -> bool:
    """Whether something upgrades packages by itself: the configuration asks for it, the program
    is there, and its timer is not off. dnf-automatic-install.timer needs no configuration."""

    def on(timer: str, unless_known: bool) -> bool:
        unit = services.get(timer)
        if unit is None or unit.load == "not-found":
            return unless_known
        return unit.enabled not in {"masked", "disabled"}

    def there(name: str) -> bool:
        return name in packages and packages[name].state.endswith("i")

    return (asked and there("unattended-upgrades") and on("apt-daily-upgrade.timer", True)) or (
        there("dnf-automatic")
        and (
            (asked and on("dnf-automatic.timer", False)) or on("dnf-automatic-install.timer", False)
        )
    )


_PARTS = frozenset({field for fields in FIELDS.values() for field in fields} | {"foreign"})


@dataclass
class _Part:
    lines: list[str]
    status: str
    said: list[str]

    @property
    def why(self) -> str:
        """Why nothing can be read from it, "" when all is well."""
        reasons = {
            "0": "",
            "late": "took longer than its time limit on the host",
            "huge": "printed more than its limit",
            "died": "was killed on the host",
            "3": "there is no such tool on this host",
            "4": "only root can read it",
        }
        said = f": {' / '.join(self.said)}" if self.said else ""
        return reasons.get(self.status, f"failed with {self.status}{said}"[:300])


@dataclass
class _Frames:
    uid: str
    user: str
    parts: dict[str, _Part]


_UNSAFE = re.compile(r"[^\t\n\x20-\x7e]")


def escaped(text: str) -> str:
    """Text in which nothing but printable ASCII, tab and newline is left as it is."""
    return _UNSAFE.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def _frames(host: str, nonce: str, text: str) -> _Frames:
    if len(text) > MOST_CHARACTERS:
        raise BadProbe(host, f"it has {len(text)} characters")
    start = text.find(f"\n{nonce} begin ")
    if start < 0:
        seen = escaped(text[-200:]).strip().replace("\n", " / ")
        raise BadProbe(host, f"it never began (found {seen!r})" if seen else "it is empty")
    lines = escaped(text[start + 1 :]).split("\n")
    words = lines[0].split(" ")
    if len(words) != 5 or not words[3].isdigit():
        raise BadProbe(host, "its first line is damaged")
    if words[2] != str(PROBE_VERSION):
        raise BadProbe(host, f"it has version {words[2][:20]}, wanted {PROBE_VERSION}")
    parts: dict[str, _Part] = {}
    current: _Part | None = None
    current_name = ""
    # What follows the last newline is the beginning of a line that was cut off.
    for number, line in enumerate(lines[1:-1], start=2):
        if line.startswith("|") and current is not None:
            current.lines.append(line[1:])
        elif line.startswith("!") and current is not None:
            current.said.append(line[1:])
        elif line.startswith(f"{nonce} "):
            words_here = line.split(" ")[1:]
            match words_here, current:
                case ["part", name, status], None if name not in parts:
                    current_name, current = name, _Part([], status, [])
                    parts[name] = current
                case ["done", name, count], _Part() if name == current_name:
                    if count != str(len(current.lines)):
                        raise BadProbe(host, f"part {name} has lost or gained lines")
                    current = None
                case ["end", count], None if count == str(len(parts)):
                    return _Frames(words[3], words[4], parts)
                case ["nowhere-to-write"], _:
                    raise BadProbe(
                        host, "it could write to none of /dev/shm, /run, /tmp and /var/tmp"
                    )
                case _:
                    raise BadProbe(host, f"line {number} is out of place")
        else:
            raise BadProbe(host, f"other output is mixed into it (line {number})")
    raise BadProbe(host, f"it breaks off after {len(lines) - 1} lines")
