"""A line on stderr while a sweep runs, once it takes longer than two seconds."""

import time
from typing import TextIO

QUIET_S = 2.0


class Waiting:
    """`with Waiting("probing", sys.stderr) as tell:`; call `tell(done, total)` at each result.

    On a terminal one line that is rewritten and removed at the end; elsewhere a line every ten
    seconds.
    """

    def __init__(self, what: str, stream: TextIO) -> None:
        self._what, self._stream = what, stream
        self._started = self._said = time.monotonic()
        self._live = stream.isatty()
        self._shown = False

    def __enter__(self) -> "Waiting":
        return self

    def __call__(self, done: int, total: int) -> None:
        now = time.monotonic()
        if now - self._started < QUIET_S or done == total:
            return
        text = f"{self._what}: {done} of {total} hosts, {now - self._started:.0f} s"
        if self._live:
            self._stream.write(f"\r\033[K{text}")
            self._stream.flush()
            self._shown = True
        elif now - self._said >= 10:
            self._stream.write(f"{text}\n")
            self._said = now

    def __exit__(self, *exception: object) -> None:
        if self._shown:
            self._stream.write("\r\033[K")
            self._stream.flush()
