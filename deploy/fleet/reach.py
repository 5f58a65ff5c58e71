"""From a host of ours to a connected pyinfra host: logging in, and what is underneath."""

import getpass
import os
import socket
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext, suppress
from functools import cache
from typing import Any

import gevent
from gevent.lock import BoundedSemaphore
from paramiko import Channel, Transport
from pyinfra.api.command import StringCommand
from pyinfra.api.config import Config
from pyinfra.api.connectors import get_all_connectors
from pyinfra.api.exceptions import PyinfraError
from pyinfra.api.host import Host as PyinfraHost
from pyinfra.api.inventory import Inventory
from pyinfra.api.state import State
from pyinfra.connectors.sshuserclient import client as ssh_client

from deploy.fleet.become import Wrapped
from deploy.fleet.connection_keys import CHECKS
from deploy.fleet.conversation import Result
from deploy.fleet.inventory import Host
from deploy.fleet.known_hosts import known_hosts
from deploy.fleet.ssh_config import jump_of, ssh_config
from deploy.fleet.unreachable import Unreachable, explain

# pyinfra's connector asks these two for configuration and keys; ours mean what ssh means.
ssh_client.get_ssh_config = ssh_config
ssh_client.get_host_keys = known_hosts

JUMP_LOGINS = 8
"""Logins in progress through one jump host. Its sshd begins to drop them at ten (MaxStartups
10:30:100, sshd_config(5)), and pyinfra opens a login of its own there for every target."""


def _in_container(host: Any, line: str) -> list[str]:
    made = host.connector
    return [made.docker_cmd, "exec", "-i", made.container_id, "sh", "-c", line]


LOCAL_CONNECTORS: dict[str, Callable[[Any, str], list[str]]] = {
    "LocalConnector": lambda host, line: ["sh", "-c", line],
    "DockerConnector": _in_container,
    "PodmanConnector": _in_container,
    "ChrootConnector": lambda host, line: [
        "chroot",
        host.connector_data["chroot_directory"],
        "sh",
        "-c",
        line,
    ],
}
"""Connectors whose commands are processes of this machine."""


@cache
def _connectors() -> dict[str, Any]:
    """pyinfra's connectors by name. pyinfra itself reads them afresh for every host (1 ms)."""
    return dict(get_all_connectors())  # type: ignore[no-untyped-call]


@cache
def _state() -> State:
    """The one pyinfra State of this process; its hosts are added as they are connected."""
    state = State()
    state.init(Inventory(([], {})), Config(PARALLEL=1))  # type: ignore[no-untyped-call]
    return state


def pyinfra_host(host: Host) -> PyinfraHost:
    """A pyinfra host with its connector, not yet connected."""
    kind, _, argument = host.name.removeprefix("@").partition("/")
    connector = _connectors()["ssh"]
    data = dict(host.data)
    if host.name.startswith("@"):
        made = _connectors()[kind]
        if made.handles_execution:
            connector = made
            for _name, given, _groups in made.make_names_data(argument or None):
                data = {**given, **data}
    state = _state()
    state.inventory.host_data[host.name] = data
    made_host = PyinfraHost(host.name, state.inventory, list(host.groups), connector)
    state.inventory.hosts[host.name] = made_host
    made_host.init(state)
    return made_host


def log_in(host: Host, timeout_s: float) -> PyinfraHost:
    """Connect within a deadline that covers every stage. Raises Unreachable."""
    made: PyinfraHost | None = None
    try:
        with _turn(host), gevent.Timeout(timeout_s):
            made = pyinfra_host(host)
            made.state.config.CONNECT_TIMEOUT = max(1, int(timeout_s))
            made.connect(show_errors=False, raise_exceptions=True)
    except gevent.Timeout:
        stage = _stage(made)
        leave(made)
        message = f"{stage} within {timeout_s:g} s"
        raise Unreachable(host.name, host.address, message, "") from None
    except Exception as error:  # a host's answer must not end the run for the others
        unreachable = explain(host, made, error)
        leave(made)
        raise unreachable from None
    _watch(made)
    return made


_turns: dict[str, BoundedSemaphore] = defaultdict(lambda: BoundedSemaphore(JUMP_LOGINS))


def _turn(host: Host) -> AbstractContextManager[Any]:
    """Waits until a login through the host's jump host may begin; at once where there is none."""
    if not host.is_ssh:
        return nullcontext()
    jump = jump_of(host.data.get("ssh_config_file"), host.address.removeprefix("@ssh/"))
    return _turns[jump] if jump else nullcontext()


def queue_s(hosts: Iterable[Host], connect_s: float) -> float:
    """How long the last of these hosts may have to wait for its turn at a jump host, at worst."""
    jumps = Counter(
        jump_of(host.data.get("ssh_config_file"), host.address.removeprefix("@ssh/"))
        for host in hosts
        if host.is_ssh
    )
    del jumps[""]
    return connect_s * max(jumps.values(), default=0) / JUMP_LOGINS


IDLE_CHECK_S = 5.0
DEAD_AFTER_S = 45
"""How long a host may stay silent on the level of TCP before its connection counts as lost. A
command may well be quiet for longer: the host's kernel answers for it."""


def _watch(host: PyinfraHost) -> None:
    """Notice a host that is gone, and cost nothing while it is there.

    paramiko looks ten times a second whether an idle connection was closed on this side, which
    over a fleet costs more than the work; `leave` wakes it instead.
    """
    transport = ssh_transport(host)
    if transport is None:
        return
    transport.sock.settimeout(IDLE_CHECK_S)
    sock: Any = transport.sock
    while isinstance(sock, Channel):  # through a jump host: the way to it can be watched
        sock = sock.get_transport().sock
    if not isinstance(sock, socket.socket):
        return  # a ProxyCommand
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (
        ("TCP_KEEPIDLE", DEAD_AFTER_S // 3),
        ("TCP_KEEPINTVL", DEAD_AFTER_S // 9 or 1),
        ("TCP_KEEPCNT", 6),
        ("TCP_USER_TIMEOUT", DEAD_AFTER_S * 1000),
    ):
        if hasattr(socket, name):  # Linux has them all
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def _stage(host: PyinfraHost | None) -> str:
    client = getattr(getattr(host, "connector", None), "client", None)
    transport = client.get_transport() if client else None
    if transport is None:
        return "no TCP connection"
    if not transport.remote_version:
        return "TCP connects, but no SSH server answers"
    return "the SSH login did not end"


def leave(host: PyinfraHost | None) -> None:
    """Close the connection. Local containers and images are left as they are."""
    connector = getattr(host, "connector", None)
    client = getattr(connector, "client", None)
    transport = client.get_transport() if client is not None else None
    if transport is not None and isinstance(transport.sock, socket.socket):
        with suppress(OSError):  # not connected any more
            transport.sock.shutdown(socket.SHUT_RDWR)
    if client is not None:
        client.close()
    if host is not None:
        host.connected = False


def login_user(host: PyinfraHost) -> str:
    """The user that commands run as."""
    if transport := ssh_transport(host):
        return str(transport.get_username() or "")
    if type(host.connector).__name__ == "LocalConnector":
        return getpass.getuser() if os.geteuid() else "root"
    return "root"


def ssh_transport(host: PyinfraHost) -> Transport | None:
    """paramiko's transport of a host that is reached by SSH."""
    client = getattr(host.connector, "client", None)
    return client.get_transport() if client is not None else None


def local_arguments(host: PyinfraHost, line: str) -> list[str]:
    """Arguments of the local process that runs a command line there, [] for other connectors."""
    make = LOCAL_CONNECTORS.get(type(host.connector).__name__)
    return make(host, line) if make else []


def run_through_pyinfra(
    host: PyinfraHost, wrapped: Wrapped, stdin: str, timeout_s: float, limit: int
) -> Result:
    """For connectors that only pyinfra itself can run commands on (@fake, @dockerssh)."""
    started = time.monotonic()
    text = wrapped.head.decode() or wrapped.line
    try:
        with gevent.Timeout(timeout_s):
            given: Any = {"_stdin": stdin} if stdin else {}
            ok, output = host.connector.run_shell_command(
                StringCommand(text), print_output=False, print_input=False, **given
            )
    except gevent.Timeout:
        return Result(None, "", "", timeout_s, f"no end within {timeout_s:g} s: abandoned")
    except (PyinfraError, OSError) as error:
        return Result(None, "", "", time.monotonic() - started, str(error)[:300])
    seconds = time.monotonic() - started
    # pyinfra keeps lines without their ends; an answer whose last line has none looks cut off.
    out, err = (
        "".join(f"{line}\n" for line in lines)
        for lines in (output.stdout_lines, output.stderr_lines)
    )
    if len(out) + len(err) > limit:
        return Result(None, "", "", seconds, f"printed more than {limit} bytes")
    return Result(0 if ok else 1, out, err, seconds, "")


def data_of(host: PyinfraHost) -> dict[str, Any]:
    """The connection keys of a host that pyinfra made."""
    data: Any = host.data
    return {key: value for key, value in data.dict().items() if key in CHECKS}
