"""Connections to a real sshd on a loopback port: what works, and every way in which it may not."""

import shlex
import shutil
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import gevent
import pytest

from deploy.fleet.inventory import Host, named_hosts
from deploy.fleet.transport import Connection, Unreachable, connect, on_each
from tests.sshd import Sshd, available

pytestmark = pytest.mark.skipif(not available(), reason="openssh-server is not installed")


def host(server: Sshd, **changes: object) -> Host:
    return named_hosts("gpu1", {**server.data, **changes}).hosts["gpu1"]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    with Sshd(tmp_path_factory.mktemp("sshd")) as server:
        yield server


@pytest.fixture(params=["ssh", "local"])
def connection(request: pytest.FixtureRequest, server: Sshd) -> Iterator[Connection]:
    made = host(server) if request.param == "ssh" else named_hosts("@local", {}).hosts["@local"]
    connection = connect(made)
    yield connection
    connection.close()


def shell(tmp_path: Path, script: str) -> str:
    """sshd options that put a program between the login and the command."""
    path = tmp_path / "login"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return f"ForceCommand {path}\n"


def test_output_errors_and_status(connection: Connection) -> None:
    result = connection.run("cat; echo oops >&2; exit 3", stdin="in\n", timeout_s=20)
    assert (result.rc, result.out, result.trouble) == (3, "in\n", "")
    assert result.err.endswith("oops\n")  # a login shell may have said something before
    assert not result.ok
    assert connection.run("true", timeout_s=20).ok


def test_pyinfras_own_runner_keeps_the_ends_of_lines() -> None:
    said = {"fake_responses": {"ask": "one\ntwo"}, "fake_delay": 0.0, "fake_delay_jitter": 0.0}
    there = connect(named_hosts("@fake/a", said).hosts["@fake/a"])
    assert there.run("ask", timeout_s=5).out == "one\ntwo\n"
    assert there.run("something else", timeout_s=5).out == ""


@pytest.mark.parametrize(
    "text",
    [
        'it\'s "$HOME" `id`',
        "back\\slash \\\\ and \\n",
        "line\nbreak",
        "a!b !! !$",
        "* ? [a] {b}",
        "é",
    ],
    ids=range(6),
)
def test_any_text_reaches_the_shell(connection: Connection, text: str) -> None:
    result = connection.run(f"printf %s {shlex.quote(text)}", timeout_s=20)
    assert result.out == text


@pytest.mark.parametrize("program", ["tcsh", "fish", "bash", "dash"])
def test_every_login_shell_understands(program: str, tmp_path: Path) -> None:
    if not shutil.which(program):
        pytest.skip(f"{program} is not installed")
    script = f'exec {program} -c "$SSH_ORIGINAL_COMMAND"'
    with Sshd(tmp_path / "sshd", extra=shell(tmp_path, script)) as server:
        connection = connect(host(server))
        text = 'it\'s \\\\ "$HOME"\n!! `id`'
        quoted = text.replace("'", "'\\''")
        result = connection.run(f"printf %s '{quoted}'; cat", stdin="\\n!in", timeout_s=20)
        assert result.out == text + "\\n!in"
        assert connection.run_script("echo script", timeout_s=20).out == "script\n"
        connection.close()


def test_a_noisy_login_shell(tmp_path: Path) -> None:
    script = "printf 'Welcome\\033[31m'; echo oops >&2; eval \"$SSH_ORIGINAL_COMMAND\""
    with Sshd(tmp_path / "sshd", extra=shell(tmp_path, script)) as server:
        connection = connect(host(server))
        result = connection.run("echo ours", timeout_s=20)
        assert result.ok
        assert result.out == "Welcome\x1b[31mours\n"
        connection.close()


def test_much_input_and_output_at_once(connection: Connection) -> None:
    """More than every buffer on the way, in both directions: neither side waits for the other."""
    text = "x" * 79 + "\n"
    result = connection.run("cat", stdin=text * 100_000, timeout_s=60, limit=9_000_000)
    assert result.trouble == ""
    assert result.out == text * 100_000


def test_a_command_that_ignores_its_input(connection: Connection) -> None:
    assert connection.run("true", stdin="x" * 3_000_000, timeout_s=20).ok


def test_lines_arrive_while_the_command_runs(connection: Connection, tmp_path: Path) -> None:
    """The command ends only after its first line has been seen here."""
    flag = tmp_path / "seen"
    seen: list[str] = []

    def see(line: str) -> None:
        seen.append(line)
        if line == "one":
            flag.touch()

    wait = f"while [ ! -e {flag} ]; do sleep 0.05; done"
    result = connection.run(
        f"echo one; {wait}; echo two >&2; printf 'three\\nfour'", timeout_s=30, on_line=see
    )
    assert result.ok
    assert {"one", "two", "three"} <= set(seen)
    assert "four" not in seen  # what has no newline is no line


def test_a_hang_meets_its_deadline(connection: Connection) -> None:
    result = connection.run("echo begun; sleep 60", timeout_s=0.5)
    assert (result.rc, result.out) == (None, "begun\n")
    assert result.trouble == "no end within 0.5 s: abandoned"
    assert connection.run("true", timeout_s=20).ok


def test_output_without_end_is_cut(connection: Connection) -> None:
    result = connection.run("yes", timeout_s=30, limit=100_000)
    assert result.trouble == "printed more than 100000 bytes: abandoned"
    assert len(result.out) < 1_000_000
    assert connection.run("true", timeout_s=20).ok


def test_a_daemon_left_behind_is_not_waited_for(connection: Connection) -> None:
    result = connection.run("sleep 60 & echo done", timeout_s=30)
    assert result.ok
    assert result.out == "done\n"


def test_a_killed_command_is_no_success(connection: Connection) -> None:
    result = connection.run("kill -9 $$", timeout_s=20)
    assert not result.ok
    assert result.trouble == "ended without an exit status (killed by a signal?)" or result.rc


def test_bytes_that_are_no_text(connection: Connection) -> None:
    result = connection.run("printf '\\377\\000ok'", timeout_s=20)
    assert result.ok
    assert result.out.endswith("ok")


def test_root_has_a_fixed_path_and_umask(connection: Connection) -> None:
    if connection.user != "root":
        pytest.skip("the test's own user is not root and may not have sudo")
    result = connection.run("umask; echo $PATH", timeout_s=20, root=True)
    assert result.out.split() == [
        "0022",
        "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    ]


def test_hold_lasts_until_it_is_closed(connection: Connection, tmp_path: Path) -> None:
    flag = tmp_path / "ended"
    held = connection.hold(f"echo mine; cat; touch {flag}", root=False, timeout_s=20)
    assert (held.first_line, held.trouble) == ("mine", "")
    assert held.alive()
    assert connection.run("true", timeout_s=20).ok
    assert not flag.exists()
    held.close()
    assert flag.exists()
    assert not held.alive()


@pytest.mark.parametrize(
    ("command", "trouble"),
    [
        ("echo no >&2; exit 4", "ended with 4: no"),
        ("sleep 60", "no answer within 0.5 s"),
    ],
)
def test_hold_without_a_first_line(connection: Connection, command: str, trouble: str) -> None:
    held = connection.hold(command, root=False, timeout_s=0.5 if "sleep" in command else 20)
    assert (held.first_line, held.trouble) == ("", trouble)
    assert not held.alive()


def test_hold_ends_on_the_host_when_the_connection_does(server: Sshd, tmp_path: Path) -> None:
    flag = tmp_path / "ended"
    connection = connect(host(server))
    held = connection.hold(f"echo mine; cat; touch {flag}", root=False, timeout_s=20)
    assert held.first_line == "mine"
    connection.close()
    deadline = time.monotonic() + 20
    while not flag.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert flag.exists()


def test_a_lost_connection_is_said(server: Sshd) -> None:
    connection = connect(host(server))
    gevent.spawn_later(0.3, server.drop_sessions)
    result = connection.run("sleep 60", timeout_s=30)
    assert (result.rc, result.trouble) == (None, "the connection was lost")
    assert "could not start a command" in connection.run("true", timeout_s=5).trouble
    assert connection.hold("cat", root=False, timeout_s=5).trouble
    connection.close()


def refusal(made: Host, timeout_s: float = 10) -> str:
    with pytest.raises(Unreachable) as caught:
        connect(made, timeout_s)
    return str(caught.value)


def test_a_changed_host_key(server: Sshd) -> None:
    known = server.known_hosts.read_text()
    server.know(server.public_key("other_key"), server.address)
    message = refusal(host(server))
    server.known_hosts.write_text(known)
    assert message.startswith("gpu1 (127.0.0.1): the host key has changed: ")
    assert server.fingerprint("other_key") in message
    assert server.fingerprint("host_key") in message
    assert f"ssh-keygen -f {server.known_hosts} -R '[127.0.0.1]:{server.port}'" in message


def test_an_unknown_host_key(server: Sshd) -> None:
    known = server.known_hosts.read_text()
    server.known_hosts.write_text("")
    message = refusal(host(server))
    assert server.known_hosts.read_text() == ""  # nothing was accepted silently
    server.known_hosts.write_text(known)
    assert "the host key is unknown" in message
    assert server.fingerprint("host_key") in message
    assert f"ssh -o UserKnownHostsFile={server.known_hosts} -p {server.port}" in message


def test_a_refused_login(server: Sshd) -> None:
    message = refusal(host(server, ssh_key=str(server.directory / "other_key")))
    assert f"the login of {server.user} was refused" in message
    assert f"-p {server.port} -l {server.user} 127.0.0.1 true" in message


def test_nobody_there(server: Sshd) -> None:
    assert "Connection refused" in refusal(host(server, ssh_port=1))
    assert "does not resolve" in refusal(host(server, ssh_hostname="nowhere.invalid"))


def test_through_a_jump_host_that_drops_crowds(tmp_path: Path) -> None:
    """Twelve targets at once through a bastion that allows nine logins in progress."""
    targets = [f"127.0.0.{number}" for number in range(2, 14)]
    with (
        Sshd(tmp_path / "jump", extra="MaxStartups 9:100:9\n") as jump,
        Sshd(tmp_path / "target", address="0.0.0.0") as target,
    ):
        known = tmp_path / "known_hosts"
        target.know(target.public_key("host_key"), *targets)
        known.write_text(jump.known_hosts.read_text() + target.known_hosts.read_text())
        config = tmp_path / "config"
        config.write_text(
            f"Host bastion\n  HostName {jump.address}\n  Port {jump.port}\n"
            f"  IdentityFile {jump.directory}/login_key\n"
            f"Host 127.*\n  Port {target.port}\n  ProxyJump bastion\n"
            f"  IdentityFile {target.directory}/login_key\n"
            f"Host *\n  User {jump.user}\n  UserKnownHostsFile {known}\n"
        )
        fleet = named_hosts(",".join(targets), {"ssh_config_file": str(config)})

        def work(one: Host) -> str:
            connection = connect(one)
            out = connection.run("echo $SSH_CONNECTION", timeout_s=20).out
            connection.close()
            return out.split()[2]

        results = dict(on_each(fleet.hosts.values(), work, deadline_s=60))
        assert results == {name: name for name in targets}
        # Every one of them went through the bastion, whose key must be known as well.
        known.write_text(target.known_hosts.read_text())
        assert "the host key is unknown" in refusal(fleet.hosts[targets[0]])


@pytest.mark.parametrize(
    ("greeting", "message"),
    [
        (b"", "TCP connects, but no SSH server answers within"),
        (
            b"HTTP/1.1 400 Bad Request\r\n\r\n" * 200,
            "what answers there is no SSH server; check address and port",
        ),
        (b"SSH-2.0-odd\r\n" + b"\xff" * 5000, ""),
        (b"SSH-2.0-odd\r\n", "the SSH login did not end within"),
    ],
    ids=["silent", "http", "garbage", "stuck"],
)
def test_something_else_answers(server: Sshd, greeting: bytes, message: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            client, _ = listener.accept()
            client.sendall(greeting)
            kept.append(client)

        kept: list[socket.socket] = []
        thread = threading.Thread(target=answer)
        thread.start()
        found = refusal(host(server, ssh_port=listener.getsockname()[1]), timeout_s=0.7)
        thread.join()
        for client in kept:
            client.close()
    assert message in found


@pytest.mark.long
def test_one_bad_host_costs_only_itself(server: Sshd) -> None:
    data = dict(server.data)
    del data["ssh_hostname"]
    names = [f"127.0.0.{number}" for number in range(1, 9)]
    hosts = named_hosts(",".join(names), data).hosts
    # Only 127.0.0.1 is served; the others refuse, and one of them "hangs".

    def work(one: Host) -> str:
        if one.name == "127.0.0.2":
            time.sleep(60)
        if one.name == "127.0.0.3":
            raise ValueError("a bug")
        connection = connect(one)
        out = connection.run("echo there", timeout_s=20).out
        connection.close()
        return out

    results = dict(on_each(hosts.values(), work, deadline_s=3))
    assert len(results) == 8
    assert results["127.0.0.1"] == "there\n"
    assert isinstance(results["127.0.0.2"], TimeoutError)
    assert isinstance(results["127.0.0.3"], ValueError)
    assert all(isinstance(results[name], Unreachable) for name in names[3:])


def test_leaving_the_iterator_ends_the_work(server: Sshd) -> None:
    ended = []

    def work(one: Host) -> str:
        try:
            if one.name != "a":
                time.sleep(60)
        finally:
            ended.append(one.name)
        return one.name

    for name, _ in on_each(named_hosts("a,b,c", {}).hosts.values(), work, deadline_s=90):
        assert name == "a"
        break
    gevent.sleep(0.1)
    assert sorted(ended) == ["a", "b", "c"]
