"""One command from start to end: input, output, limits. Never raises for what a host does."""

import time
from collections.abc import Callable
from dataclasses import dataclass

from deploy.fleet.become import Wrapped
from deploy.fleet.streams import ERR, OUT, Gone, Stream

GRACE_S = 1.0
"""How long output may stay open after the command ended: a daemon that it left behind may hold
it open for ever."""
TICK_S = 0.5


@dataclass(frozen=True)
class Result:
    """How a command on a host went."""

    rc: int | None
    """None when it did not end, or nobody knows how."""
    out: str
    err: str
    seconds: float
    trouble: str
    """"" or a sentence: deadline, lost connection, too much output, no root."""

    @property
    def ok(self) -> bool:
        """It ended by itself, with 0."""
        return self.rc == 0 and not self.trouble


def converse(
    stream: Stream,
    wrapped: Wrapped,
    stdin: str,
    *,
    started: float,
    timeout_s: float,
    limit: int,
    on_line: Callable[[str], None] | None = None,
) -> Result:
    """Feed a started command, collect what it prints, and leave it when a limit is met.

    `limit` counts bytes of stdout and stderr together. `on_line` gets each line of either as it
    ends. `started` is the time.monotonic() that the time limit counts from. The stream is closed
    in every case.
    """
    talk = Talk(stream, wrapped, stdin, limit=limit, on_line=on_line)
    try:
        trouble = talk.until(started + timeout_s)
    except Gone as error:
        trouble = str(error)
    finally:
        status = stream.exit_status()
        stream.close()
    if trouble == DEADLINE:
        trouble = f"no end within {timeout_s:g} s: abandoned"
    elif not trouble and status is None:
        trouble = stream.lost() or "ended without an exit status (killed by a signal?)"
    return Result(status, talk.text(OUT), talk.text(ERR), time.monotonic() - started, trouble)


DEADLINE = "deadline"


class Talk:
    """The state of one conversation. `keep_input` leaves standard input open at its end."""

    def __init__(
        self,
        stream: Stream,
        wrapped: Wrapped,
        stdin: str = "",
        *,
        limit: int,
        on_line: Callable[[str], None] | None = None,
        keep_input: bool = False,
    ) -> None:
        self._stream = stream
        self._wrapped = wrapped
        self._pending = memoryview(wrapped.head + stdin.encode())
        self._limit = limit
        self._on_line = on_line
        self._got = {OUT: bytearray(), ERR: bytearray()}
        self._told = {OUT: 0, ERR: 0}
        self._input_open = True
        self._keep_input = keep_input
        self._may_flow = not wrapped.ready
        self._answered = False

    def text(self, which: int) -> str:
        """What came on OUT or ERR so far."""
        return self._got[which].decode(errors="replace")

    def until(self, deadline: float, enough: Callable[[], bool] | None = None) -> str:
        """Talk until the command ends or `enough` says so; the trouble, or "".

        `deadline` is a time.monotonic(); meeting it returns DEADLINE. Raises Gone.
        """
        ended_at: float | None = None
        while True:
            now = time.monotonic()
            if now >= deadline:
                return DEADLINE
            soon = self._feed() or ended_at is not None
            for which, data in self._stream.receive(min(deadline - now, 0.05 if soon else TICK_S)):
                self._got[which] += data
                ended_at = None
            if sum(map(len, self._got.values())) > self._limit:
                return f"printed more than {self._limit} bytes: abandoned"
            if not self._may_flow and (trouble := self._login()):
                return trouble
            self._tell()
            if self._stream.over() or (enough is not None and enough()):
                return ""
            if self._stream.exit_status() is not None:
                ended_at = ended_at or now
                if now - ended_at > GRACE_S:
                    return ""
            elif lost := self._stream.lost():
                return lost

    def _feed(self) -> bool:
        """Send what the host takes now; whether it takes less than there is."""
        if not self._input_open or not self._may_flow:
            return False
        while self._pending:
            taken = self._stream.send(bytes(self._pending[:32768]))
            if not taken:
                return True
            self._pending = self._pending[taken:]
        if not self._keep_input:
            self._stream.end_input()
        self._input_open = False
        return False

    def _login(self) -> str:
        """Answer sudo's question once; the trouble when it asks again."""
        err = self._got[ERR]
        if self._wrapped.ready in err:
            self._may_flow = True
            for word in (self._wrapped.prompt, self._wrapped.ready):
                self._got[ERR] = self._got[ERR].replace(word, b"")
        elif err.count(self._wrapped.prompt) > 1:
            return "sudo did not take the password (_sudo_password in the inventory)"
        elif self._wrapped.prompt in err and not self._answered:
            self._stream.send(f"{self._wrapped.password}\n".encode())
            self._answered = True
        return ""

    def _tell(self) -> None:
        if self._on_line is None or not self._may_flow:
            return
        for which, got in self._got.items():
            end = got.rfind(b"\n", self._told[which]) + 1
            if end > self._told[which]:
                lines = bytes(got[self._told[which] : end]).decode(errors="replace")
                self._told[which] = end
                for line in lines.splitlines():
                    self._on_line(line)
