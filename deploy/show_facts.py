"""Print folded facts for a person: aligned, wrapped, coloured only on a terminal."""

import textwrap
from collections.abc import Iterator, Mapping
from typing import TextIO

from rich.console import Console
from rich.text import Text

from deploy.catalog import load
from deploy.fact_rows import fact_rows
from deploy.facts import NodeFacts
from deploy.fleet.names import fold
from deploy.fold import Block, Row, folded

LABEL = 10
WIDTH = 100
"""Columns when the output is no terminal."""


def show_facts(
    facts: Mapping[str, NodeFacts], failed: Mapping[str, str], seconds: float, stream: TextIO
) -> None:
    """Print every block of equal hosts, then the hosts that said nothing, then one summary line."""
    terminal = stream.isatty()
    console = Console(
        file=stream, highlight=False, markup=False, soft_wrap=True, no_color=not terminal
    )
    width = max(60, min(console.width, 140)) if terminal else WIDTH
    catalogue = load()
    blocks = folded({name: fact_rows(found, catalogue) for name, found in facts.items()})
    for block in blocks:
        for line in _block(block, width):
            console.print(line)
        console.print()
    for name, why in failed.items():
        words = textwrap.wrap(why.removeprefix(f"{name}: "), width - 4)
        console.print(Text(name, style="bold red"))
        for word in words:
            console.print(Text(f"  {word}", style="red"))
        console.print()
    console.print(_summary(facts, failed, len(blocks), seconds))


def _block(block: Block, width: int) -> Iterator[Text]:
    count = len(block.names)
    head = Text(block.nodes, style="bold cyan")
    if count > 1:
        head.append(f"  {count} hosts", style="dim")
    if block.like:
        head.append(f"  like {_first(block.like)}, but", style="dim")
    yield head
    for row in block.rows:
        yield from _row(row, width)
    for label in block.gone:
        yield from _row(Row(label, "-"), width)


def _first(nodes: str) -> str:
    return nodes if len(nodes) <= 40 else nodes[:37] + "..."


def _row(row: Row, width: int) -> Iterator[Text]:
    indent = " " * (LABEL + 4)
    mark = "!" if row.notable else " "
    style = "not dim yellow" if row.notable else "not dim"
    first = True
    for paragraph in row.text.splitlines() or [""]:
        wrapped = textwrap.wrap(paragraph, width - len(indent), break_on_hyphens=False) or [""]
        for line in wrapped:
            text = Text(f"{mark} {row.label:<{LABEL}}  " if first else indent, style="dim")
            if first and row.notable:
                text.stylize("bold yellow", 0, 1)
            text.append(line, style=style)
            first = False
            yield text


def _summary(
    facts: Mapping[str, NodeFacts], failed: Mapping[str, str], blocks: int, seconds: float
) -> Text:
    total = len(facts) + len(failed)
    kinds = f" in {blocks} kind{'s' * (blocks != 1)}" if facts else ""
    text = Text(f"{len(facts)} of {total} host{'s' * (total != 1)} looked at{kinds}")
    busy = [name for name, found in facts.items() if found.gpu_users or found.slurm_jobs]
    owned = [name for name, found in facts.items() if found.foreign]
    unknown = [name for name, found in facts.items() if found.unknown]
    for label, names in (
        ("busy", busy),
        ("managed by others", owned),
        ("partly unknown", unknown),
        ("not looked at", list(failed)),
    ):
        if names:
            text.append(f"; {len(names)} {label} ({fold(names)})")
    text.append(f"; {seconds:.1f} s", style="dim")
    return text
