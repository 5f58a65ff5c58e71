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
        return (
            f"found {name[:80]!r}: wanted @local, @docker/IMAGE, @chroot/PATH or another connector"
        )
    if is_address(name):
        return ""
    return (
        f"found {name[:80]!r}: wanted a host name or address "
        "of letters, digits, '.', '-', '_' and ':'"
    )


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
        try:
            nodes = NodeSet(part, resolver=RESOLVER_NOGROUP)
            if len(nodes) > MOST_HOSTS:
                raise ValueError(f"{part!r} names {len(nodes)} hosts, more than {MOST_HOSTS}")
            names += list(nodes)
        except NodeSetException as error:
            raise ValueError(
                f"found {part[:80]!r}: wanted a node set as gpu[001-004] ({error})"
            ) from None
    return names


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
