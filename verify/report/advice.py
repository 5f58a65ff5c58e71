"""What to do about a finding, as words and as commands to copy. Pure."""

import shlex
from collections.abc import Iterable

from deploy.fleet.names import fold
from verify.checks import BY_NAME, LEVELS
from verify.judging.claims import REACHABLE
from verify.report.catalogue import catalogue
from verify.report.groups import Group

WORKLOAD, MULTI_NODE = BY_NAME
DO: dict[str, str] = {
    "drain": "take no new jobs on it",
    "reset": "take no new jobs on it, then reset the GPU",
    "reboot": "take no new jobs on it, then reboot the host",
    "service": "take no new jobs on it, and have the part replaced",
}
MENDED_BY_APPLY = frozenset(
    {
        *("driver.version", "driver.flavour", "driver.next-boot", "fabric.manager"),
        *("stack.packages", "env.works", "env.wheels", "env.pip-check"),
        *("gpu.persistence", "host.expected"),
    }
)
"""Checks of what `gpufleet apply` sets: with the fault of each of them on a simulated host, the
plan has a step. What others have put beside it (another package source, a variable of every login)
is not ours to take away, and no step of the plan."""
EXCHANGED = "; if it was exchanged on purpose, accept it"
IDENTITY = "gpu.identity"
"""The check of an exchanged GPU: whoever exchanged it says so."""
BASELINE = {
    "lock": "by the lock",
    "host": "by the host's own record",
    "file": "by the file of expected state",
    "history": "by its last good run",
    "physics": "by what the hardware can do",
    "neighbours": "by its equal neighbours",
}
"""Where an expectation comes from, in words; what a check claims by itself needs none."""


def deed(group: Group) -> str:
    """What to do, in one word."""
    if group.action != "keep":
        return group.action
    if group.verdict in ("not-run", "hung", "unreachable"):
        return "look"
    if mended_by_apply(group):
        return "apply"
    return "mend" if group.verdict == "fail" else "watch"


def todo(group: Group) -> str:
    """What to do, in one phrase."""
    if group.check == REACHABLE:
        return "bring it back, or take it out of the inventory"
    return {
        "look": "nothing is known of it: mend what is in the way, then ask again",
        "apply": "bring it back to what the lock says",
        "mend": "mend what was found; running jobs may stay",
        "watch": "leave it in use, and look again",
        **DO,
    }[deed(group)] + EXCHANGED * (group.check == IDENTITY)


def mended_by_apply(group: Group) -> bool:
    """Whether `gpufleet apply` sets what was found wrong."""
    # An environment of --env bears its path: it is not ours to build.
    foreign = any(case.component.name.startswith("/") for case in group.cases)
    other = foreign and group.check.startswith("env.")
    return group.verdict in ("fail", "degraded") and group.check in MENDED_BY_APPLY and not other


def mend(group: Group, inventory: str) -> str:
    """The command that mends it, "" when no command of ours does."""
    if group.check == REACHABLE:
        return f"ssh {shlex.quote(group.hosts[0])}"
    if group.check == IDENTITY:
        return again("", group.hosts, inventory) + " --accept-hardware"
    if mended_by_apply(group):
        return f"gpufleet apply {shlex.quote(inventory)} {limit(group.hosts)}"
    return ""


def again(
    check: str, hosts: Iterable[str], inventory: str, level: str = "", way: Iterable[str] = ()
) -> str:
    """The command that asks only this once more; `way` are options of how training is started."""
    known = catalogue().get(check)
    words = " ".join(["gpufleet verify", shlex.quote(inventory), *map(shlex.quote, way)])
    # What is judged over the fleet needs the others beside it.
    if known is None or known.where == "host" or check == REACHABLE:
        words += f" {limit(hosts)}"
    asked = known.level if known is not None else "" if check else level
    if asked == WORKLOAD:
        return f"{words} --workload {check.partition('.')[2]}" if check else words
    if asked == MULTI_NODE:
        return f"{words} --multi-node"
    if way and asked == LEVELS[0]:  # such options are for levels that train
        asked = LEVELS[1]
    if asked in LEVELS[1:]:
        words += f" --level {asked}"
    return words + (f" --check {check}" if check and check != REACHABLE else "")


def limit(hosts: Iterable[str]) -> str:
    return f"--limit {shlex.quote(fold(hosts))}"
