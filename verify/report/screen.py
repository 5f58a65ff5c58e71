"""Prints styled lines: coloured on a terminal, plain elsewhere."""

from collections.abc import Callable, Iterable
from typing import TextIO

from rich.console import Console
from rich.text import Text

Line = tuple[str, str]
"""Style (a rich style, "" for none) and text."""

WIDTH = 80
"""Columns when the output is no terminal."""


def write(lines: Callable[[int], Iterable[Line]], stream: TextIO) -> None:
    """Print what `lines` makes for the width of the stream. Long lines (commands) stay whole."""
    terminal = stream.isatty()
    console = Console(file=stream, no_color=None if terminal else True)  # None: as NO_COLOR says
    width = max(60, min(console.width, 110)) if terminal else WIDTH
    for style, text in lines(width):
        console.print(Text(text, style=style), soft_wrap=True, highlight=False)
