"""One running command as bytes in and bytes out: over an SSH channel, or as a local process.

Both sides have the same four verbs, none of which waits longer than it is told to, so one loop
(deploy.fleet.conversation) serves every kind of host.
"""

import os
import select
import signal
import subprocess
import threading
from typing import Any, Protocol

from paramiko import Channel, SSHException, Transport
from paramiko.pipe import make_or_pipe

OUT, ERR = 1, 2
CHUNK = 65536


class Gone(Exception):  # noqa: N818 - what happened to the other side, not a mistake of ours
    """The connection ended under a command; the message says how."""


class Stream(Protocol):
    """A running command."""

    def send(self, data: bytes) -> int:
        """Give input; returns how many bytes were taken at once. Raises Gone."""

    def end_input(self) -> None:
        """Close standard input."""

    def receive(self, timeout_s: float) -> list[tuple[int, bytes]]:
        """Output that is there, waiting for some at most `timeout_s`; pairs of OUT or ERR."""

    def over(self) -> bool:
        """Whether all output is here and the exit status as well known as it will ever be."""

    def exit_status(self) -> int | None:
        """The command's exit status once it is known."""

    def lost(self) -> str:
        """How the connection ended before the command did, "" while it lives."""

    def close(self) -> None:
        """Abandon the command. Never waits for it."""


class SshStream:
    """A command on a channel of an open SSH connection.

    Reads the channel directly: paramiko's file objects block without a deadline, and pyinfra's
    reader keeps everything a host prints. The wait is on paramiko's own buffer events.
    """

    def __init__(self, transport: Transport, command: str, timeout_s: float) -> None:
        """Start the command. Raises Gone; the caller bounds the time (gevent.Timeout)."""
        self._transport = transport
        self._ready: Any = threading.Event()
        try:
            self._channel: Channel = transport.open_session(timeout=timeout_s)
            out, err = _either(self._ready)
            self._channel.in_buffer.set_event(out)
            self._channel.in_stderr_buffer.set_event(err)
            self._channel.settimeout(0.0)
            self._channel.exec_command(command)
        except (SSHException, EOFError, OSError) as error:
            raise Gone(f"could not start a command: {error or type(error).__name__}") from None

    def send(self, data: bytes) -> int:
        try:
            return self._channel.send(data)
        except TimeoutError:
            return 0  # the host does not read just now: its window is full
        except (SSHException, EOFError, OSError):
            if self.exit_status() is not None or self._transport.is_active():
                return len(data)  # the command ended without reading its input: its own choice
            raise Gone(self.lost()) from None

    def end_input(self) -> None:
        try:
            self._channel.shutdown_write()
        except (SSHException, EOFError, OSError):
            return  # gone: receive and lost tell

    def receive(self, timeout_s: float) -> list[tuple[int, bytes]]:
        if self._at_end():
            self._channel.status_event.wait(timeout_s)
            return []
        if not self._ready.wait(timeout_s):
            return []
        found = []
        if self._channel.recv_ready():
            found.append((OUT, self._channel.recv(CHUNK)))
        if self._channel.recv_stderr_ready():
            found.append((ERR, self._channel.recv_stderr(CHUNK)))
        return found

    def over(self) -> bool:
        return self._at_end() and self._channel.status_event.is_set()

    def _at_end(self) -> bool:
        ended = bool(self._channel.eof_received) or self._channel.closed
        return ended and not self._channel.recv_ready() and not self._channel.recv_stderr_ready()

    def exit_status(self) -> int | None:
        status = self._channel.exit_status
        return status if self._channel.status_event.is_set() and status >= 0 else None

    def lost(self) -> str:
        if self._transport.is_active():
            return ""
        error = str(self._transport.get_exception() or "")
        return f"the connection was lost{f': {error}' if error else ''}"

    def close(self) -> None:
        self._channel.close()


def _either(event: Any) -> tuple[Any, Any]:
    """Two events that set one. paramiko's own means for pipes; an Event has the same verbs."""
    first, second = make_or_pipe(event)
    return first, second


class ProcessStream:
    """A command as a process of this machine, in a process group of its own."""

    def __init__(self, arguments: list[str]) -> None:
        """Start it. Raises Gone when the program is missing."""
        try:
            self._process: subprocess.Popen[bytes] = subprocess.Popen(
                arguments,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                start_new_session=True,
            )
        except OSError as error:
            raise Gone(f"could not start {arguments[0]}: {error.strerror}") from None
        self._open: dict[int, int] = {}
        for which, pipe in ((OUT, self._process.stdout), (ERR, self._process.stderr)):
            self._open[_descriptor(pipe)] = which
        for pipe in (self._process.stdin, self._process.stdout, self._process.stderr):
            os.set_blocking(_descriptor(pipe), False)

    def send(self, data: bytes) -> int:
        try:
            return os.write(_descriptor(self._process.stdin), data)
        except BlockingIOError:
            return 0
        except OSError:
            return len(data)  # it closed its input: its own choice

    def end_input(self) -> None:
        if self._process.stdin and not self._process.stdin.closed:
            self._process.stdin.close()

    def receive(self, timeout_s: float) -> list[tuple[int, bytes]]:
        if not self._open:
            self._await_status(timeout_s)
            return []
        ready, _, _ = select.select(list(self._open), [], [], timeout_s)
        found = []
        for descriptor in ready:
            try:
                data = os.read(descriptor, CHUNK)
            except BlockingIOError:
                continue
            if data:
                found.append((self._open[descriptor], data))
            else:
                del self._open[descriptor]
        return found

    def over(self) -> bool:
        return not self._open and self._process.poll() is not None

    def _await_status(self, timeout_s: float) -> None:
        try:
            self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return

    def exit_status(self) -> int | None:
        return self._process.poll()

    def lost(self) -> str:
        return ""

    def close(self) -> None:
        self.end_input()
        for pipe in (self._process.stdout, self._process.stderr):
            if pipe:
                pipe.close()
        self._open = {}
        if self._process.poll() is None:
            try:
                os.killpg(self._process.pid, signal.SIGKILL)
            except ProcessLookupError:
                return
            except PermissionError:
                return  # it became another user (sudo): it ends when it meets its closed pipes


def _descriptor(pipe: Any) -> int:
    return int(pipe.fileno())
