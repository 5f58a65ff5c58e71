"""A line on stderr while many hosts are asked, once that takes longer than two seconds."""

from collections.abc import Iterable
from time import monotonic
from typing import TextIO

import gevent

from deploy.fleet.names import fold

QUIET_S = 2.0
PLAIN_EVERY_S = 10.0
"""Where nobody watches a terminal, a line in a log is enough now and then."""


class Waiting:
    """`with Waiting("probing", names, sys.stderr) as line:`; call `line.ended(name)` for each.

    On a terminal one line that counts the seconds, names who is waited for and is gone at the end;
    elsewhere a plain line every ten seconds.
    """

    def __init__(self, what: str, names: Iterable[str], stream: TextIO) -> None:
        self._what, self._stream = what, stream
        self._left = dict.fromkeys(names)
        self._total = len(self._left)
        self._live = stream.isatty()
        self._shown = False

    def __enter__(self) -> "Waiting":
        self._started = monotonic()
        self._ticker = gevent.spawn(self._tick)
        return self

    def __exit__(self, *exception: object) -> None:
        self._ticker.kill()
        if self._shown:
            self._stream.write("\r\033[K")
            self._stream.flush()

    def ended(self, name: str) -> None:
        """This host is done, well or not."""
        self._left.pop(name, None)

    def line(self) -> str:
        """How far it is."""
        done = self._total - len(self._left)
        names = fold(self._left)
        names = names if len(names) <= 50 else f"{names[:47]}..."
        waits = f", waiting for {names}" if 0 < len(self._left) <= 20 else ""
        seconds = monotonic() - self._started
        return f"{self._what}: {done} of {self._total} hosts, {seconds:.0f} s{waits}"

    def _tick(self) -> None:
        gevent.sleep(QUIET_S if self._live else PLAIN_EVERY_S)
        while self._left:
            if self._live:
                self._stream.write(f"\r\033[K{self.line()}")
                self._stream.flush()
                self._shown = True
            else:
                self._stream.write(f"{self.line()}\n")
            gevent.sleep(1.0 if self._live else PLAIN_EVERY_S)
