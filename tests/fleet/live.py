"""The simulated fleet as tests use it: log in, break, heal, restore. Everything goes by the CLI."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.sim import paths

PYTHON = sys.executable


@dataclass(frozen=True)
class Result:
    """What a command on a node, or of the CLI, came to."""

    status: int
    out: str
    err: str

    def ok(self) -> str:
        """Return standard output; fail the test when the command failed."""
        assert self.status == 0, f"exit {self.status}\n{self.out[-2000:]}\n{self.err[-2000:]}"
        return self.out


def command(*argv: str, stdin: str = "", timeout: float = 120, **env: str) -> Result:
    """Run a command of this machine to its end."""
    done = subprocess.run(
        argv, input=stdin.encode(), capture_output=True, timeout=timeout, cwd=paths.REPOSITORY,
        env=os.environ | env,
    )  # fmt: skip
    return Result(
        done.returncode, done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace")
    )


def sim(*argv: str, timeout: float = 600) -> Result:
    """Run `python -m tests.sim ...`."""
    return command(PYTHON, "-m", "tests.sim", *argv, timeout=timeout)


@dataclass(frozen=True)
class LiveFleet:
    """A fleet that is up."""

    name: str

    @property
    def directory(self) -> Path:
        """The fleet's files: fleet.json, ssh_config, known_hosts."""
        return paths.fleets() / self.name

    @property
    def ssh_config(self) -> Path:
        """A configuration for `ssh -F`."""
        return self.directory / "ssh_config"

    @property
    def document(self) -> dict[str, Any]:
        """fleet.json: addresses, vendor_url, vendor_key_fingerprint, wheels_url and more."""
        loaded: dict[str, Any] = json.loads((self.directory / "fleet.json").read_text())
        return loaded

    @property
    def nodes(self) -> dict[str, str]:
        """Node names and their addresses."""
        return {name: node["address"] for name, node in self.document["nodes"].items()}

    @property
    def vendor_url(self) -> str:
        """The vendor's apt repository for Debian 12, as an inventory's `vendor_repository`."""
        return str(self.document["vendor_url"])

    @property
    def vendor_key_fingerprint(self) -> str:
        """The primary key that signs the vendor's repository."""
        return str(self.document["vendor_key_fingerprint"])

    @property
    def vendor_key_file(self) -> Path:
        """The vendor's public key, as its repository serves it."""
        return Path(self.document["vendor_key_file"])

    @property
    def wheels_url(self) -> str:
        """The index (PEP 503) of stub wheels and the machine's own CPU wheels."""
        return str(self.document["wheels_url"])

    @property
    def env(self) -> dict[str, str]:
        """Environment under which inventories/sim.py describes this fleet."""
        return {"GPUFLEET_SIM_FLEET": self.name}

    def ssh(self, node: str, command_line: str, stdin: str = "", timeout: float = 120) -> Result:
        """Run a command on a node as user ops, over SSH."""
        ssh = ("ssh", "-F", str(self.ssh_config), "-o", "BatchMode=yes")
        return command(*ssh, node, command_line, stdin=stdin, timeout=timeout)

    def root(self, node: str, script: str, timeout: float = 120) -> Result:
        """Run a shell script as root inside a node, without its sshd."""
        line = ("shell", "--fleet", self.name, "--root", node, "--", "sh", "-c", script)
        return sim(*line, timeout=timeout)

    def fault(self, node: str, *fault: str) -> None:
        """Apply faults in this order: KIND or KIND:ARGUMENT."""
        sim("fault", "--fleet", self.name, node, *fault).ok()

    def heal(self, node: str, *fault: str) -> None:
        """Take faults (all without a name) away, in this order."""
        sim("heal", "--fleet", self.name, node, *fault).ok()

    @contextmanager
    def broken(self, node: str, *faults: str) -> Iterator[None]:
        """Apply faults for a block."""
        try:
            self.fault(node, *faults)
            yield
        finally:
            self.heal(node, *reversed(faults))  # a later one may stand on an earlier one

    def restore(self, *nodes: str) -> None:
        """Bring nodes (all of them without arguments) back to their first boot."""
        sim("restore", "--fleet", self.name, *nodes).ok()

    def boot_id(self, node: str) -> str:
        """Return the node's boot_id, read over SSH."""
        return self.ssh(node, "cat /proc/sys/kernel/random/boot_id").ok().strip()

    def reboot(self, node: str, deadline_s: float = 60) -> str:
        """Reboot a node from inside and wait until it can be logged in to; return the boot_id."""
        before = self.boot_id(node)
        self.ssh(node, "sudo systemctl reboot")
        end = time.monotonic() + deadline_s
        while time.monotonic() < end:
            after = self.ssh(node, "cat /proc/sys/kernel/random/boot_id")
            if after.status == 0 and after.out.strip() != before:
                return after.out.strip()
            time.sleep(0.2)
        raise AssertionError(f"{node} did not come back within {deadline_s} s")

    def status(self) -> dict[str, Any]:
        """Return `status --json`: state and active faults of every node."""
        loaded: dict[str, Any] = json.loads(sim("status", "--fleet", self.name, "--json").ok())
        return loaded
