"""A host that is a directory: real sh, flock, setsid and timeout, without root and without SSH.

Commands run on this machine with the paths that they name on a host moved below the directory.
Only what a directory cannot do is stood in for: `systemctl` (knows `reboot` and
`is-system-running`, refuses all else) and the kernel's boot_id.
"""

import os
import re
import shlex
import subprocess
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path

from deploy.fleet.conversation import Result

MOVED = re.compile(
    r"(?<![\w.])(/run/gpufleet|/var/lib/gpufleet|/opt/gpufleet|/etc/|/usr/share/keyrings"
    r"|/(usr/local/lib|usr/lib|lib|run)/modprobe\.d)"
)
BOOT_ID = "/proc/sys/kernel/random/boot_id"

_SYSTEMCTL = """#!/bin/sh
case "$*" in
"-i reboot") ;;
"is-system-running --wait") exit 0 ;;
*) echo "systemctl stand-in: unregistered: $*" >&2; exit 99 ;;
esac
root={root}
echo "$(cat $root/boot_id)" >>$root/reboots
[ -e $root/refuse-reboot ] && {{ echo "Call to Reboot failed: refused"; exit 1; }}
[ -e $root/ignore-reboot ] && exit 0
(
    sleep "$(cat $root/shutdown-seconds)"
    touch $root/down
    [ -e $root/stay-down ] && exit 0
    [ -x $root/on-boot ] && $root/on-boot
    rm -rf $root/run/gpufleet $root/run/gpufleet.lock
    cp $root/next-boot-id $root/boot_id
    cat /proc/sys/kernel/random/uuid >$root/next-boot-id
    rm -f $root/down
) </dev/null >/dev/null 2>&1 &
"""


class Away(Exception):  # noqa: N818 - reads as what it is at every raise
    """The directory plays a host that does not answer."""


class LocalHost:
    """Make one with `LocalHost(tmp_path)`; `connect()` as often as needed."""

    def __init__(self, root: Path, name: str = "local1") -> None:
        self.root, self.name = root, name
        self.boots = 0
        self.commands: list[str] = []
        if (root / "boot_id").exists():
            return
        for part in ("run", "var/lib", "opt", "etc", "bin", "usr/share"):
            (root / part).mkdir(parents=True)
        (root / "boot_id").write_text(f"{uuid.uuid4()}\n")
        (root / "next-boot-id").write_text(f"{uuid.uuid4()}\n")
        (root / "shutdown-seconds").write_text("0\n")
        systemctl = root / "bin/systemctl"
        systemctl.write_text(_SYSTEMCTL.format(root=shlex.quote(str(root))))
        systemctl.chmod(0o755)

    def moved(self, command: str) -> str:
        command = MOVED.sub(lambda found: f"{self.root}{found[0]}", command)
        return command.replace(BOOT_ID, f"{self.root}/boot_id")

    @property
    def boot_id(self) -> str:
        return (self.root / "boot_id").read_text().strip()

    @property
    def reboots(self) -> list[str]:
        """boot_id at every reboot that was asked for."""
        path = self.root / "reboots"
        return path.read_text().split() if path.exists() else []

    @property
    def journal(self) -> list[str]:
        path = self.root / "var/lib/gpufleet/journal.jsonl"
        return path.read_text().splitlines() if path.exists() else []

    def connect(self) -> "LocalConnection":
        if (self.root / "down").exists():
            raise Away(f"{self.name}: connection refused")
        return LocalConnection(self)


class LocalHeld:
    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process
        assert process.stdout is not None
        self.first_line = process.stdout.readline().rstrip("\n")
        self.trouble = ""

    def alive(self) -> bool:
        return self._process.poll() is None

    def close(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(10)
        self._process.stdout.close()


class LocalConnection:
    """deploy.fleet.transport.Connection, by subprocesses."""

    def __init__(self, on: LocalHost) -> None:
        self.on, self.host = on, on.name
        self.closed = False
        self.before: Callable[[str], str] = lambda command: ""
        """Called with every command; what it returns is the trouble instead of running it."""

    def _start(self, command: str) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            ["sh", "-c", self.on.moved(command)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PATH": f"{self.on.root}/bin:{os.environ['PATH']}"},
        )

    def run(
        self,
        command: str,
        *,
        stdin: str = "",
        timeout_s: float,
        root: bool = False,
        limit: int = 1_000_000,
        on_line: Callable[[str], None] | None = None,
    ) -> Result:
        assert not self.closed, "used after close()"
        self.on.commands.append(command)
        began = time.monotonic()
        trouble = self.before(command)
        if trouble or (self.on.root / "down").exists():
            return Result(None, "", "", 0.0, trouble or "lost connection")
        process = self._start(command)
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        killer = threading.Timer(timeout_s, process.kill)
        killer.start()
        try:
            try:
                process.stdin.write(stdin)
                process.stdin.close()
            except BrokenPipeError:
                pass
            out = ""
            for line in process.stdout:
                out += line
                if on_line is not None:
                    on_line(line.rstrip("\n"))
            err = process.stderr.read()
            rc = process.wait()
        finally:
            killer.cancel()
            process.stdout.close()
            process.stderr.close()
        late = "deadline" if rc == -9 else ""
        return Result(None if late else rc, out, err, time.monotonic() - began, late)

    def hold(self, command: str, *, root: bool, timeout_s: float) -> LocalHeld:
        assert not self.closed, "used after close()"
        process = self._start(command)
        assert process.stderr is not None
        process.stderr.close()
        return LocalHeld(process)

    def close(self) -> None:
        self.closed = True
