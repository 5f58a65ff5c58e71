"""A real sshd as an ordinary process on a loopback port, for tests and measurements.

Runs as whoever runs the tests, with keys of its own in a directory of its own; the login user is
that same user. Nothing outside the directory is read or written.
"""

import contextlib
import getpass
import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

OPTIONS = """
PidFile none
UsePAM no
PasswordAuthentication no
KbdInteractiveAuthentication no
PubkeyAuthentication yes
StrictModes no
PrintMotd no
LogLevel ERROR
MaxStartups 1000:30:2000
MaxSessions 50
Subsystem sftp internal-sftp
SetEnv SHLVL=2
"""
"""SHLVL keeps bash from reading the user's .bashrc for every command: what this machine has there
is no part of a test."""


def available() -> bool:
    return shutil.which("sshd", path="/usr/sbin:/usr/bin:/usr/local/sbin") is not None


class Sshd:
    """`with Sshd(directory) as server:`; `server.data` are the inventory keys that reach it."""

    def __init__(self, directory: Path, address: str = "127.0.0.1", extra: str = "") -> None:
        self.directory, self.address = directory, address
        self.user = getpass.getuser()
        self.extra = extra
        directory.mkdir(parents=True, exist_ok=True)
        for name in ("host_key", "login_key", "other_key"):
            if not (directory / name).exists():
                subprocess.run(
                    ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", directory / name],
                    check=True,
                )
        shutil.copy(directory / "login_key.pub", directory / "authorized_keys")
        self.port = _free_port(address)
        self.known_hosts = directory / "known_hosts"
        self.know(self.public_key("host_key"), address)

    def public_key(self, name: str) -> str:
        return " ".join((self.directory / f"{name}.pub").read_text().split()[:2])

    def fingerprint(self, name: str) -> str:
        """As ssh-keygen prints it."""
        said = subprocess.run(
            ["ssh-keygen", "-l", "-f", self.directory / f"{name}.pub"],
            capture_output=True,
            text=True,
            check=True,
        )
        return said.stdout.split()[1]

    def know(self, key: str, *addresses: str) -> None:
        lines = [f"[{address}]:{self.port} {key}\n" for address in addresses]
        self.known_hosts.write_text("".join(lines))

    @property
    def data(self) -> dict[str, object]:
        return {
            "ssh_hostname": self.address,
            "ssh_port": self.port,
            "ssh_user": self.user,
            "ssh_key": str(self.directory / "login_key"),
            "ssh_known_hosts_file": str(self.known_hosts),
        }

    def __enter__(self) -> "Sshd":
        config = self.directory / "sshd_config"
        config.write_text(
            f"ListenAddress {self.address}\nPort {self.port}\n"
            f"HostKey {self.directory / 'host_key'}\n"
            f"AuthorizedKeysFile {self.directory / 'authorized_keys'}\n{self.extra}{OPTIONS}"
        )
        if os.geteuid() == 0:
            Path("/run/sshd").mkdir(exist_ok=True)  # sshd of root insists on it
        self.process = subprocess.Popen(
            [_sshd(), "-D", "-e", "-f", config],
            stdin=subprocess.DEVNULL,
            stderr=(self.directory / "sshd.log").open("ab"),
        )
        deadline = time.monotonic() + 10
        probe_address = "127.0.0.1" if self.address == "0.0.0.0" else self.address
        while time.monotonic() < deadline:
            with socket.socket() as attempt:
                if attempt.connect_ex((probe_address, self.port)) == 0:
                    return self
            if self.process.poll() is not None:
                break
            time.sleep(0.02)
        raise AssertionError(f"sshd did not start: {(self.directory / 'sshd.log').read_text()}")

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        self.process.wait(10)

    def drop_sessions(self) -> None:
        """Kill every process of every session: the connection is lost under a running command.

        Parents first: a session that sees its command die would still report how it ended.
        """
        for pid in reversed(_descendants(self.process.pid)):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def _descendants(pid: int) -> list[int]:
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [below for child in children for below in (*_descendants(int(child)), int(child))]


def _sshd() -> str:
    found = shutil.which("sshd", path="/usr/sbin:/usr/bin:/usr/local/sbin")
    if found is None:
        raise AssertionError("sshd is not installed (openssh-server)")
    return found


def _free_port(address: str) -> int:
    with socket.socket() as listener:
        listener.bind((address, 0))
        return int(listener.getsockname()[1])
