"""The vendor's web server of one fleet: a process of its own that holds the fleet's web lock."""

from __future__ import annotations

import os
import platform
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from tests.sim import paths, vendor
from tests.sim.fleet import VENDOR_PORT, Fleet, load
from tests.sim.proc import SimError, gone, holder, kill, say, take


def start(fleet: Fleet) -> vendor.VendorRepo:
    """Build the vendor's repository if need be, serve it on the gateway, write its addresses down.

    A server that serves this very directory stays as it is. Raises SimError when the build fails or
    the server does not answer.
    """
    if not any(paths.cache().glob("vendor-*/")):
        say("building the vendor's repository, once, about 10 s")
    try:
        built = vendor.build(paths.cache(), platform.release())
    except RuntimeError as failed:
        raise SimError(f"the vendor's repository was not built: {failed}") from failed
    lock, root = fleet.directory / "web.lock", str(built.root)
    running = holder(lock)
    if running is not None and root not in _arguments(running):
        kill(running)
        running = None
    if running is None:
        with (fleet.directory / "web.log").open("ab") as log:
            server = subprocess.Popen(
                [sys.executable, "-m", "tests.sim.web", fleet.name, root],
                cwd=paths.REPOSITORY, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                start_new_session=True,
            )  # fmt: skip
        _wait(fleet, server.pid)
    here = f"http://{fleet.gateway}:{VENDOR_PORT}"
    fleet.vendor = {
        # Without an `s`: of Debian 12, which most fleets are.
        "vendor_url": f"{here}/{built.cuda.rstrip('/')}",
        "vendor_extra_url": f"{here}/{built.extra.rstrip('/')}",
        "vendor_key_fingerprint": built.key_fingerprint,
        "vendor_key_file": str(built.key_file),
        "vendor_urls": {
            name: f"{here}/{place.cuda.rstrip('/')}" for name, place in vendor.PLACES.items()
        },
        "vendor_extra_urls": {
            name: f"{here}/{place.extra.rstrip('/')}" for name, place in vendor.PLACES.items()
        },
        "vendor_key_fingerprints": built.fingerprints,
        "vendor_key_files": {name: str(built.key_of(name)) for name in vendor.PLACES},
        "vendor_root": root,
        "wheels_url": f"{here}/{built.wheels.rstrip('/')}",
        "wheels_by_build_url": f"{here}/{built.wheels_by_build.rstrip('/')}",
    }
    return built


def stop(directory: Path) -> None:
    """Stop the server of the fleet with this directory."""
    if (running := holder(directory / "web.lock")) is not None:
        kill(running)


def _wait(fleet: Fleet, pid: int, deadline_s: float = 20) -> None:
    end = time.monotonic() + deadline_s
    while time.monotonic() < end and not gone(pid):
        try:
            socket.create_connection((fleet.gateway, VENDOR_PORT), timeout=1).close()
            return
        except OSError:
            time.sleep(0.05)
    raise SimError(f"the vendor's web server did not start; see {fleet.directory / 'web.log'}")


def _arguments(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return []


def main(argv: Sequence[str]) -> int:
    """Serve a directory for a fleet: FLEET DIRECTORY."""
    fleet = load(argv[0])
    if fleet is None or (descriptor := take(fleet.directory / "web.lock")) is None:
        return 1
    os.set_inheritable(descriptor, True)  # the lock stays with this process through exec
    command = vendor.serve_command(Path(argv[1]), fleet.gateway, VENDOR_PORT)
    os.execv(command[0], command)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
