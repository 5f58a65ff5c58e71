"""Connections to hosts: pyinfra's connectors underneath, our own deadlines and limits on top."""

import time
from collections.abc import Callable
from typing import Any

import gevent

from deploy.fleet import reach
from deploy.fleet.become import Wrapped, refused, root_prefix, wrap
from deploy.fleet.conversation import DEADLINE, Result, Talk, converse
from deploy.fleet.each import on_each
from deploy.fleet.inventory import Host
from deploy.fleet.streams import ERR, OUT, Gone, ProcessStream, SshStream, Stream
from deploy.fleet.unreachable import Unreachable

__all__ = ["Connection", "Held", "Result", "Unreachable", "adopt_pyinfra", "connect", "on_each"]

LIMIT = 1_000_000


class Held:
    """A command that runs on the host for as long as we hold it: its input stays open.

    When this process dies the host sees the end of input, so a command that ends with its input
    (`cat`) can never outlive its controller.
    """

    def __init__(self, stream: Stream | None, first_line: str, trouble: str) -> None:
        self._stream = stream
        self.first_line = first_line
        """The first line that it printed, "" when it ended or said nothing in time."""
        self.trouble = trouble
        """Why there is no first line."""

    def alive(self) -> bool:
        """Whether the command still runs, as far as this side knows."""
        stream = self._stream
        return stream is not None and stream.exit_status() is None and not stream.lost()

    def close(self) -> None:
        """End its input, let it end by itself for two seconds, and leave."""
        stream, self._stream = self._stream, None
        if stream is None:
            return
        stream.end_input()
        deadline = time.monotonic() + 2
        while not stream.over() and not stream.lost() and time.monotonic() < deadline:
            stream.receive(0.2)
        stream.close()


class Connection:
    """An open way to one host. Its methods never raise for what the host does."""

    def __init__(self, name: str, pyinfra_host: Any, data: Any) -> None:
        self.host = name
        self._pyinfra = pyinfra_host
        self._data = dict(data)

    def __repr__(self) -> str:
        return f"Connection({self.host})"

    @property
    def user(self) -> str:
        """Who we are on the host."""
        return reach.login_user(self._pyinfra)

    def run(
        self,
        command: str,
        *,
        stdin: str = "",
        timeout_s: float,
        root: bool = False,
        limit: int = LIMIT,
        on_line: Callable[[str], None] | None = None,
    ) -> Result:
        """Run a POSIX sh command with a fixed PATH, and as root with umask 022.

        Output beyond `limit` bytes or no end within `timeout_s` is trouble: the channel is closed
        and the command left behind. `on_line` gets each line of stdout and stderr.
        """
        become = root and self.user != "root"
        wrapped = wrap(command, root=root, data=self._data if become else {"_sudo": False})
        result = self._run(wrapped, stdin, timeout_s, limit, on_line)
        if become and result.rc and not result.trouble and (why := refused(result.err, self.user)):
            return Result(result.rc, result.out, result.err, result.seconds, why)
        return result

    def run_script(
        self, script: str, *, timeout_s: float, limit: int = LIMIT, root: bool = True
    ) -> Result:
        """Run a script through `sh -s` as root where that is wished and needs no question, else as
        ourselves.

        The script itself must say who ran it; what sudo said is in `err`.
        """
        prefix = root_prefix(self._data) if root and self.user != "root" else ""
        if prefix.startswith("sudo") and self._data.get("_sudo_password"):
            return self.run("exec sh -s", stdin=script, timeout_s=timeout_s, root=True, limit=limit)
        line = f"sh -c '{prefix}sh -s || exec sh -s'" if prefix else "sh -s"
        return self._run(Wrapped(line, b""), script, timeout_s, limit, None)

    def _run(
        self,
        wrapped: Wrapped,
        stdin: str,
        timeout_s: float,
        limit: int,
        on_line: Callable[[str], None] | None,
    ) -> Result:
        started = time.monotonic()
        try:
            with gevent.Timeout(timeout_s):
                stream = self._start(wrapped.line, timeout_s)
        except gevent.Timeout:
            return Result(None, "", "", timeout_s, f"no answer within {timeout_s:g} s: abandoned")
        except Gone as error:
            return Result(None, "", "", time.monotonic() - started, str(error))
        if stream is None:
            return reach.run_through_pyinfra(self._pyinfra, wrapped, stdin, timeout_s, limit)
        return converse(
            stream,
            wrapped,
            stdin,
            started=started,
            timeout_s=timeout_s,
            limit=limit,
            on_line=on_line,
        )

    def _start(self, line: str, timeout_s: float) -> Stream | None:
        """Start a command line; None where only pyinfra's own runner knows how."""
        if transport := reach.ssh_transport(self._pyinfra):
            return SshStream(transport, line, timeout_s)
        if arguments := reach.local_arguments(self._pyinfra, line):
            return ProcessStream(arguments)
        return None

    def hold(self, command: str, *, root: bool, timeout_s: float) -> Held:
        """Start a command that stays; returns with its first line or the reason for none."""
        become = root and self.user != "root"
        wrapped = wrap(command, root=root, data=self._data if become else {"_sudo": False})
        try:
            with gevent.Timeout(timeout_s):
                stream = self._start(wrapped.line, timeout_s)
        except gevent.Timeout:
            return Held(None, "", f"no answer within {timeout_s:g} s")
        except Gone as error:
            return Held(None, "", str(error))
        if stream is None:
            return Held(None, "", "this kind of connection cannot hold a command")
        return _first_line(stream, wrapped, timeout_s, self.user)

    def close(self) -> None:
        """Leave the host."""
        reach.leave(self._pyinfra)


def _first_line(stream: Stream, wrapped: Wrapped, timeout_s: float, user: str) -> Held:
    talk = Talk(stream, wrapped, limit=LIMIT, keep_input=True)
    try:
        trouble = talk.until(time.monotonic() + timeout_s, lambda: "\n" in talk.text(OUT))
    except Gone as error:
        trouble = str(error)
    line, newline, _ = talk.text(OUT).partition("\n")
    if newline and not trouble:
        return Held(stream, line, "")
    status = stream.exit_status()
    stream.close()
    if trouble == DEADLINE:
        return Held(None, "", f"no answer within {timeout_s:g} s")
    last = talk.text(ERR).strip().splitlines()[-1:]
    said = refused(talk.text(ERR), user) or trouble or f"ended with {status}: {' '.join(last)}"
    return Held(None, "", said)


def connect(host: Host, timeout_s: float = 10) -> Connection:
    """Log in to a host through pyinfra's connector.

    Raises Unreachable when there is no connection within `timeout_s`; its message names host,
    address, what was found and the next command.
    """
    return Connection(host.name, reach.log_in(host, timeout_s), host.data)


def adopt_pyinfra(host: Any) -> Connection:
    """A connection over a pyinfra host that pyinfra itself has connected."""
    return Connection(host.name, host, reach.data_of(host))
