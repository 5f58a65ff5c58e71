"""What Slurm says of hosts that do not answer: expected absent, or not. On the controller.

Slurm's answer is hostile data as every host's: bounded, printable, matched by whole names alone. A
state that is not known to keep a node out of service excuses nobody, and neither does silence.
"""

import re
import shutil
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from deploy.fleet.inventory import Fleet, Host
from deploy.fleet.runs import printable
from deploy.fleet.transport import Unreachable, connect
from verify.results import HostVerification

FORM = "%N|%n|%o|%T|%H|%u|%E"
"""sinfo(1): node, its host's name, its address, state, since when and by whom the reason was given,
the reason, which may hold anything."""
ASK = (
    "command -v sinfo >/dev/null || exit 44\n"
    f"timeout 10 sinfo -a -h -N --future -o '{FORM}' 2>/dev/null || "
    f"timeout 10 sinfo -a -h -N -o '{FORM}'"
)
"""Older releases, 22.05 among them, do not know --future, and refuse it."""
ASK_S = 25.0
CONNECT_S = 10.0
HERE = "this machine"
MOST_ASKED = 3
"""Hosts that are tried: a fleet without Slurm is found out soon."""
MOST_BYTES = 4_000_000
MOST_NODES = 50_000
MOST_TEXT = 160
ABSENT = ("DOWN", "DRAINED", "DRAINING", "DRAIN", "FUTURE", "POWERED_DOWN", "POWERING_DOWN")
"""States of nodes that take no jobs because somebody, or Slurm itself, has put them aside."""
OFF = "~%"
"""Suffixes of a state: in power saving, powering down (sinfo(1), node state codes)."""
SUFFIXES = "*~#!%$@^-"


@dataclass(frozen=True)
class Node:
    """One node as sinfo tells it."""

    names: tuple[str, ...]
    """NodeName, NodeHostName, NodeAddr."""
    state: str
    """As DRAINED, with sinfo's suffix: DOWN*."""
    since: str
    by: str
    reason: str

    @property
    def absent(self) -> bool:
        """Whether it is known to be out of service."""
        bare = self.state.rstrip(SUFFIXES)
        return bare in ABSENT or any(mark in self.state for mark in OFF)

    def text(self, whence: str) -> str:
        """Its state, with the reason where one was given: for a note, or as an excuse."""
        said = f"Slurm (asked on {whence}) has it {self.state}"
        if self.reason:
            said += f": {self.reason}"
            said += f", since {self.since}" * bool(self.since) + f", by {self.by}" * bool(self.by)
        return said


def read(text: str) -> list[Node]:
    """The nodes in sinfo's answer; lines of another form are left out. Pure."""
    found: dict[tuple[str, ...], Node] = {}
    for line in text[:MOST_BYTES].splitlines()[:MOST_NODES]:
        fields = [printable(one).strip()[:MOST_TEXT] for one in line.split("|", 6)]
        if len(fields) != 7 or not re.fullmatch(r"[A-Za-z_]+[*~#!%$@^-]{0,2}", fields[3]):
            continue
        name, hostname, address, state, since, by, reason = (
            "" if one in ("none", "Unknown", "(null)", "N/A") else one for one in fields
        )
        by = re.sub(r"\(\d+\)$", "", by)
        node = Node((name, hostname, address), state.upper(), since, by, reason)
        found.setdefault(node.names, node)  # once for each of its partitions
    return list(found.values())


def by_host(nodes: Iterable[Node], hosts: Mapping[str, Sequence[str]]) -> dict[str, Node]:
    """The node of each host, by a name or address that is the same to the letter; a host that
    could be several nodes is none. Pure."""
    owners: dict[str, set[Node]] = {}
    for node in nodes:
        for name in filter(None, node.names):
            owners.setdefault(name, set()).add(node)
    found = {}
    for host, names in hosts.items():
        mine = {node for name in names for node in owners.get(name, ())}
        if len(mine) == 1:
            (found[host],) = mine
    return found


def excuse(fleet: Fleet, found: list[HostVerification]) -> list[HostVerification]:
    """The hosts with what Slurm says of them: an excuse for who gives no result, else a note.

    Asked once: this machine where it has sinfo, else, and only for silent hosts, one that answered.
    """
    silent = {one.host for one in found if one.result is None and one.verdict != "pass"}
    answering = [fleet.hosts[one.host] for one in found if one.result is not None]
    text, whence = _here(), HERE
    if text is None and silent:
        text, whence = _there(answering[:MOST_ASKED])
    if text is None:
        return found
    names = {name: (name, host.address) for name, host in fleet.hosts.items()}
    nodes = by_host(read(text), names)
    return [told(one, nodes[one.host].text(whence), one.host in silent)
            if one.host in nodes and nodes[one.host].absent else one
            for one in found]  # fmt: skip


def told(one: HostVerification, text: str, silent: bool) -> HostVerification:
    """A host with that of its node. Pure."""
    if silent:
        return one.model_copy(update={"excused": text})
    return one.model_copy(update={"notes": (*one.notes, text)})


def _here() -> str | None:
    """sinfo's answer on this machine, None without one."""
    if shutil.which("sinfo") is None:
        return None
    try:
        ran = subprocess.run(
            ["sh", "-c", ASK], stdin=subprocess.DEVNULL, capture_output=True, timeout=ASK_S
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return ran.stdout[:MOST_BYTES].decode(errors="replace") if ran.returncode == 0 else None


def _there(hosts: Iterable[Host]) -> tuple[str | None, str]:
    """sinfo's answer on the first of these hosts that has one, and its name."""
    for host in hosts:
        try:
            connection = connect(host, CONNECT_S)
        except Unreachable:
            continue
        try:
            ran = connection.run(ASK, timeout_s=ASK_S, limit=MOST_BYTES)
        finally:
            connection.close()
        if ran.ok:
            return ran.out, host.name
    return None, ""
