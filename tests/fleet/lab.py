"""A user's folder with an inventory of simulated nodes of any system, and gpufleet run in it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.fleet.live import LiveFleet, Result
from tests.fleet.served import served
from tests.sim import paths
from tests.sim.vendor import PLACES
from tests.sim.vendor.assemble import EARLIER

DRIVER_ONLY = {"cuda": "none", "cudnn": "none", "nccl": "none"}
EXTRA = {
    "PYTHONPATH": str(paths.REPOSITORY),
    "PYINFRA_PROGRESS": "off",
    "RUST_BACKTRACE": "1",  # an OpenPGP library that walks the stack of a greenlet crashes
}
GPUFLEET = (sys.executable, "-m", "deploy.cli")


@dataclass
class Lab:
    """One inventory of some nodes; each is told of the vendor's repository for its system."""

    fleet: LiveFleet
    folder: Path

    @property
    def lock(self) -> Path:
        return self.folder / "lab.lock"

    def wish(self, hosts: Mapping[str, Mapping[str, Any]]) -> None:
        """What is wanted from now on; the lock is forgotten."""
        document = self.fleet.document
        written = []
        for name, wishes in hosts.items():
            system = document["nodes"][name]["system"]
            common = {
                "ssh_config_file": str(self.fleet.ssh_config),
                "ssh_known_hosts_file": str(self.fleet.directory / "known_hosts"),
                "vendor_repository": document["vendor_urls"][system],
                "vendor_key_fingerprint": document["vendor_key_fingerprints"][system],
                "torch": "none",
            }
            written.append((name, {**common, **wishes}))
        (self.folder / "lab.py").write_text(f"gpus = {written!r}\n")
        self.lock.unlink(missing_ok=True)

    def start(self, *words: str) -> subprocess.Popen[str]:
        """Begin `gpufleet WORD lab.py ...`."""
        return subprocess.Popen(
            [*GPUFLEET, words[0], "lab.py", *words[1:]],
            cwd=self.folder,
            env=os.environ | EXTRA,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *words: str, timeout: float = 600) -> Result:
        """Run `gpufleet WORD lab.py ...` to its end."""
        running = self.start(*words)
        out, err = running.communicate(timeout=timeout)
        return Result(running.returncode, out, err)

    def apply(self) -> Result:
        return self.run("apply", "--yes", "--reboot")

    def converge(self) -> Result:
        """apply must succeed, and leave nothing to do."""
        done = self.apply()
        assert done.status == 0, f"{done.out[-5000:]}\n{done.err[-1000:]}"
        left = self.run("plan", "--check")
        assert left.status == 0, left.out[-5000:]
        return done

    def stacks(self) -> dict[str, dict[str, Any]]:
        """What is locked, by host."""
        content = json.loads(self.lock.read_text())
        return {name: content["stacks"][one["stack"]] for name, one in content["hosts"].items()}

    def planned(self, *words: str) -> dict[str, Any]:
        """`plan --json`: the plan of each host."""
        found: dict[str, Any] = json.loads(self.run("plan", "--json", *words).out)["hosts"]
        return found

    def facts(self, node: str) -> dict[str, Any]:
        document = json.loads(self.run("facts", "--json").ok())
        found: dict[str, Any] = document["facts"][node]
        return found

    def driver(self, node: str) -> tuple[str, str]:
        """Version and flavour of the loaded module."""
        modules = self.facts(node)["modules"]
        return modules["loaded_version"], modules["loaded_flavour"]


@contextmanager
def moving(live: LiveFleet, system: str, folder: Path) -> Iterator[Moving]:
    """A mirror of the vendor's repository for a system, as it was before its newest drivers."""
    folder.mkdir()
    with served(live, folder) as address:
        made = Moving(Path(live.document["vendor_root"]), PLACES[system].cuda, folder, address)
        made.show(EARLIER)
        yield made


@dataclass(frozen=True)
class Moving:
    """That mirror; `bump` brings the newest drivers."""

    built: Path
    place: str
    folder: Path
    address: str

    @property
    def url(self) -> str:
        return f"{self.address}/repository"

    def bump(self) -> None:
        """From now on the repository is what the fleet's own one is."""
        self.show("")

    def show(self, where: str) -> None:
        """Serve the vendor's repository from another folder of what was built."""
        link = self.folder / "repository.new"
        link.symlink_to(self.built / where / self.place)
        link.rename(self.folder / "repository")
