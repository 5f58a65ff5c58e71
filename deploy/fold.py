"""Identical hosts together, differences named. Pure; knows nothing of what the rows mean."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

from deploy.fleet.names import fold


@dataclass(frozen=True)
class Row:
    """One line about a host: `text` may hold several lines."""

    label: str
    text: str
    notable: bool = False
    """An operator should look at it."""


@dataclass(frozen=True)
class Block:
    """Hosts with equal rows."""

    names: tuple[str, ...]
    nodes: str
    """Their names, folded."""
    rows: tuple[Row, ...]
    """All rows, or only those that differ from the hosts of `like`."""
    like: str = ""
    """Folded names of the hosts that these are like but for `rows`, "" when rows are complete."""
    gone: tuple[str, ...] = ()
    """Labels of rows that those have and these have not."""


def folded(hosts: Mapping[str, tuple[Row, ...]]) -> list[Block]:
    """Blocks of equal hosts, the largest first; a block that resembles an earlier whole one
    (at most half of its rows differ) shows only its differences."""
    groups: dict[tuple[Row, ...], list[str]] = defaultdict(list)
    for name, rows in hosts.items():
        groups[rows].append(name)
    order = list(hosts)
    sizes = sorted(groups.items(), key=lambda item: (-len(item[1]), order.index(item[1][0])))
    blocks: list[Block] = []
    for rows, names in sizes:
        whole = Block(tuple(names), fold(names), rows)
        near = [_but(whole, earlier) for earlier in blocks if not earlier.like]
        best = min(near, key=lambda block: len(block.rows) + len(block.gone), default=whole)
        few = 2 * (len(best.rows) + len(best.gone)) <= len(rows)
        blocks.append(best if best.like and few else whole)
    return blocks


def _but(block: Block, earlier: Block) -> Block:
    """A block said by its differences from an earlier one."""
    theirs = set(earlier.rows)
    labels = {row.label for row in block.rows}
    return Block(
        block.names,
        block.nodes,
        tuple(row for row in block.rows if row not in theirs),
        earlier.nodes,
        tuple(row.label for row in earlier.rows if row.label not in labels),
    )
