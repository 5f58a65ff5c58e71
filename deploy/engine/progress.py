"""Progress of hosts that converge: live on a terminal, plain lines elsewhere."""

import time
from collections.abc import Iterable
from typing import TYPE_CHECKING, TextIO

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from deploy.steps import Step

if TYPE_CHECKING:
    from deploy.engine.outcome import Outcome

SHOWN = 24
"""Hosts with a line of their own on a terminal; the others are counted."""


class Progress:
    """What every host is doing, shown on `stream`. Use as a context manager.

    On a terminal one line per working host with its step and the last line of output; elsewhere
    one line per step and per end of a host. Texts are expected to be printable already.
    """

    def __init__(self, hosts: Iterable[str], stream: TextIO) -> None:
        self.waiting = list(hosts)
        self.total = len(self.waiting)
        self.working: dict[str, _Row] = {}
        self.ended: dict[str, str] = {}
        self._stream = stream
        self._live: Live | None = None
        if stream.isatty():
            self._live = Live(
                console=Console(file=stream),
                get_renderable=self.screen,
                refresh_per_second=4,
                transient=True,
            )

    def __enter__(self) -> "Progress":
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *exception: object) -> None:
        if self._live:
            self._live.stop()

    def note(self, host: str, text: str) -> None:
        row = self._row(host)
        row.doing, row.line = text, ""
        self._say(f"{host}: {text}")

    def step(self, host: str, step: Step, number: int, count: int) -> None:
        row = self._row(host)
        row.doing, row.line = f"{number}/{count} {step.layer}: {step.title}", ""
        self._say(f"{host}: {row.doing} ({step.why})")

    def line(self, host: str, text: str) -> None:
        if text.strip():
            self._row(host).line = text.strip()

    def finished(self, outcome: "Outcome") -> None:
        """A host has ended: its line goes, its result stays on the screen."""
        self.working.pop(outcome.host, None)
        if outcome.host in self.waiting:
            self.waiting.remove(outcome.host)
        self.ended[outcome.host] = outcome.status
        text = f"{outcome.host}: {outcome.status}"
        self._say(f"{text}: {outcome.message}" if outcome.message else text, always=True)

    def in_flight(self) -> list[str]:
        """One sentence per host that is being worked on, for somebody who interrupts."""
        return [
            f"{host}: {row.doing} (for {time.monotonic() - row.since:.0f} s)"
            for host, row in self.working.items()
        ]

    def _row(self, host: str) -> "_Row":
        if host in self.waiting:
            self.waiting.remove(host)
        return self.working.setdefault(host, _Row())

    def _say(self, text: str, *, always: bool = False) -> None:
        if self._live is None:
            print(text, file=self._stream, flush=True)
        elif always:
            self._live.console.print(Text(text))

    def screen(self) -> Group:
        """What a terminal shows now."""
        table = Table.grid(padding=(0, 1), expand=True)
        table.add_column(no_wrap=True, min_width=max(map(len, self.working), default=0))
        table.add_column(no_wrap=True, min_width=6, justify="right")
        table.add_column(no_wrap=True, overflow="ellipsis", ratio=1)
        for host, row in list(self.working.items())[:SHOWN]:
            seconds = f"{time.monotonic() - row.since:.0f} s"
            line = Text(f"{row.doing}  ")
            line.append(row.line, style="dim")
            table.add_row(Text(host, style="bold"), Text(seconds, style="cyan"), line)
        rest = f"{len(self.ended)} of {self.total} hosts done"
        hidden = len(self.working) - SHOWN
        if hidden > 0:
            rest += f", {hidden} more working"
        return Group(table, Text(rest, style="dim"))


class _Row:
    def __init__(self) -> None:
        self.doing = "begins"
        self.line = ""
        self.since = time.monotonic()
