"""Host names and node sets: `gpu[001-128]` as the HPC world writes it, by ClusterShell."""

import re
from collections.abc import Iterable

from ClusterShell.NodeSet import RESOLVER_NOGROUP, NodeSet, NodeSetException

from deploy.fleet.connection_keys import is_address

MOST_HOSTS = 20_000
"""A node set that expands to more is a slip of the pen."""

_CONNECTOR = re.compile(
    r"@(local|(ssh|vagrant|docker|podman|dockerssh|podmanssh|chroot|fake|terraform)"
    r"/[A-Za-z0-9_/][A-Za-z0-9_./:@+\-]{0,200})"
)


def name_fault(name: str) -> str:
    """What is wrong with a host name, "" when nothing is.

    Names end in file names, reports and shell commands, so their grammar is strict: host names,
    addresses, and pyinfra's connectors such as @local and @docker/debian:12.
    """
    if _CONNECTOR.fullmatch(name) and ".." not in name:
        return ""
    if name.startswith("@"):
        return "is no connector that gpufleet knows: wanted @local, @docker/IMAGE, @chroot/PATH"
    if is_address(name):
        return ""
    return "is no host name: wanted a name or address of letters, digits, '.', '-', '_' and ':'"


def split_list(expression: str) -> list[str]:
    """Parts of a comma-separated list; commas inside brackets belong to a part."""
    parts, depth, start = [], 0, 0
    for index, character in enumerate(expression):
        depth += {"[": 1, "]": -1}.get(character, 0)
        if character == "," and depth <= 0:
            parts.append(expression[start:index])
            start = index + 1
    return [part.strip() for part in [*parts, expression[start:]] if part.strip()]


def node_names(expression: str) -> list[str]:
    """The names that a list of node sets and connectors stands for, in order.

    Raises ValueError with what was found and wanted.
    """
    names: list[str] = []
    for part in split_list(expression):
        if part.startswith("@"):
            names.append(part)
            continue
        if _size(part) > MOST_HOSTS:  # before it is expanded: that would take all memory
            raise ValueError(f"{part[:80]!r} names more than {MOST_HOSTS} hosts")
        try:
            names += list(NodeSet(part, resolver=RESOLVER_NOGROUP))
        except NodeSetException as error:
            raise ValueError(
                f"found {part[:80]!r}: wanted a node set as gpu[001-004] ({error})"
            ) from None
    return names


def _size(part: str) -> int:
    """How many names a node set expands to, at most."""
    size = 1
    for ranges in re.findall(r"\[([^\]]*)\]", part):
        ends = re.findall(r"(\d+)-(\d+)", ranges)
        size *= ranges.count(",") + 1 + sum(max(0, int(last) - int(first)) for first, last in ends)
    return size


def fold(names: Iterable[str]) -> str:
    """Names folded for a reader: gpu[001-004],login."""
    plain: list[str] = []
    odd: list[str] = []
    for name in dict.fromkeys(names):
        foldable = re.fullmatch(r"[A-Za-z0-9._\-]+", name) is not None
        (plain if foldable else odd).append(name)
    if len(plain) > 1:
        plain = [str(NodeSet.fromlist(plain, resolver=RESOLVER_NOGROUP))]
    return ",".join([*plain, *odd])
