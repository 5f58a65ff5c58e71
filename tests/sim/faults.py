"""Faults of a running node, by kind: `guest/usr/local/lib/sim/faults/KIND` applies and heals one.

Each is a script in the node that tells about itself in its first comment lines. Active ones are
files named KIND or KIND:ARGUMENT: in /etc/sim/faults when they outlive a reboot, else in /run.
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

from tests.sim import node
from tests.sim.fleet import Node
from tests.sim.proc import SimError, WrongUseError, run

_SCRIPTS = Path(__file__).with_name("guest") / "usr/local/lib/sim/faults"
_IN_NODE = "/usr/local/lib/sim/faults"
_LASTING, _PASSING = "/etc/sim/faults", "/run/sim/faults"
_ARGUMENT = re.compile(r"[A-Za-z0-9_.,:=+ -]{1,120}")


@dataclass(frozen=True)
class Kind:
    """What a fault is, what its argument means, whether it outlives a reboot or comes several."""

    name: str
    about: str
    argument: str
    lasts: bool
    several: bool

    def marker(self, argument: str) -> str:
        """Return the file in the node that says this fault is active."""
        name = f"{self.name}:{argument}" if self.several and argument else self.name
        return f"{_LASTING if self.lasts else _PASSING}/{name}"


def kinds() -> dict[str, Kind]:
    """Return every fault there is, read from the scripts."""
    found = {}
    for script in sorted(_SCRIPTS.iterdir()):
        head = dict(re.findall(r"^# ([\w-]+): (.*)$", script.read_text(), re.MULTILINE))
        argument, _, several = head["argument"].partition(", ")
        lasts = {"over reboots": True, "until reboot": False}[head["lasts"]]
        found[script.name] = Kind(script.name, head[script.name], argument, lasts, bool(several))
    return found


def parse(fault: str) -> tuple[Kind, str]:
    """Split KIND[:ARGUMENT]; raise WrongUseError with the kinds there are."""
    name, _, argument = fault.partition(":")
    kind = kinds().get(name)
    if kind is None:
        raise WrongUseError(f"no fault {name!r}; faults:\n{catalogue()}")
    if argument and (kind.argument == "none" or not _ARGUMENT.fullmatch(argument)):
        raise WrongUseError(f"fault {name} takes as argument: {kind.argument}")
    return kind, argument


def catalogue() -> str:
    """Return the list of faults for a person."""
    lines = []
    for kind in kinds().values():
        name = kind.name if kind.argument == "none" else f"{kind.name}:{kind.argument}"
        lines.append(f"  {name:26} {kind.about}")
    return "\n".join(lines)


def apply(n: Node, fault: str) -> None:
    """Bring a fault upon a running node; raise WrongUseError when it does not fit there."""
    kind, argument = parse(fault)
    node.booted(n)
    if kind.marker(argument).rpartition("/")[2] in active(n):
        return
    marker = shlex.quote(kind.marker(argument))
    directory = kind.marker(argument).rpartition("/")[0]
    node.inside(n, f"mkdir -p {directory} && printf %s {shlex.quote(argument)} > {marker}")
    try:
        _run(n, kind, "apply", argument)
    except SimError:
        node.inside(n, f"rm -f {marker}", check=False)
        raise


def heal(n: Node, fault: str | None = None) -> list[str]:
    """Take a fault (all of them without `fault`) away from a node; return those that were there."""
    kind, argument = parse(fault) if fault is not None else (None, "")
    node.booted(n)
    wanted = active(n)
    if kind is not None:
        wanted = [f for f in wanted if f in (kind.name, kind.marker(argument).rpartition("/")[2])]
    for name in reversed(wanted):
        kind, argument = parse(name)
        marker = shlex.quote(kind.marker(argument))
        argument = argument or node.inside(n, f"cat {marker}")
        node.inside(n, f"rm -f {marker}")
        try:
            _run(n, kind, "heal", argument)
        except SimError:
            node.inside(n, f"printf %s {shlex.quote(argument)} > {marker}", check=False)
            raise
    return wanted


def active(n: Node) -> list[str]:
    """Return the faults that are active on a running node, the latest last."""
    listed = node.inside(n, f"ls -tr {_LASTING} {_PASSING} 2>/dev/null || true")
    return [line for line in listed.splitlines() if line and not line.endswith(":")]


def _run(n: Node, kind: Kind, action: str, argument: str) -> None:
    command = [*node.enter(n), f"{_IN_NODE}/{kind.name}", action, *([argument] if argument else [])]
    done = run(*command, check=False, timeout=120)
    if done.returncode != 0:
        said = (done.stderr or done.stdout).strip()[-1000:]
        error = WrongUseError if done.returncode == 2 else SimError
        raise error(f"{n.name}: fault {kind.name}, {action}: {said}")
