"""Up, down, restore, status, purge: each repairs what a killed run of any of them left behind."""

from __future__ import annotations

import json
import shutil
import socket
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.sim import base, faults, layers, network, node, paths, systems, vendor, web
from tests.sim.fleet import Fleet, Node, define, existing, load
from tests.sim.proc import SimError, WrongUseError, exclusive, holder, run, say

BOOT_DEADLINE_S = 120


def up(name: str, wanted: Mapping[str, str] | None) -> Fleet:
    """Bring a fleet up and wait until every node can be logged in to; what is up already stays."""
    begun = time.monotonic()
    fleet = define(name, wanted)
    with _busy(fleet):
        below = _prepare(fleet)
        off = [n for n in fleet.nodes.values() if holder(n.lock) is None]
        _boot(fleet, off, below)
        fleet.save(_pids(fleet))
    started = f"{len(off)} of {len(fleet.nodes)} nodes started" if off else "was up already"
    say(f"fleet {name}: {started} ({time.monotonic() - begun:.1f} s)")
    return fleet


def restore(name: str, only: Iterable[str]) -> Fleet:
    """Bring nodes (all without `only`) back to the state of their very first boot."""
    begun = time.monotonic()
    fleet = known(name)
    nodes = [fleet.node(n) for n in only] or list(fleet.nodes.values())
    with _busy(fleet):
        below = _prepare(fleet)
        _each(nodes, lambda n: node.stop(fleet, n))
        _each(nodes, node.wipe)
        _boot(fleet, nodes, below)
        fleet.save(_pids(fleet))
    say(f"fleet {name}: {len(nodes)} nodes restored ({time.monotonic() - begun:.1f} s)")
    return fleet


def down(name: str) -> None:
    """Remove a fleet: nodes, bridge, rules, files. Works on whatever is left of one."""
    directory = paths.fleets() / name
    try:
        fleet = load(name)
    except SimError as broken:
        if isinstance(broken, WrongUseError):
            raise
        fleet = None
    with exclusive(_lock(name), f"fleet {name}"):
        _stop_all(name, fleet)
        web.stop(directory)
        for index in network.owned(directory):
            network.remove(index)
        if fleet is not None and network.owner(fleet.index) is None:
            network.remove(fleet.index)  # its rules, should the bridge be gone already
        if directory.exists():
            shutil.rmtree(directory)
    _lock(name).unlink(missing_ok=True)
    say(f"fleet {name} is down")


def purge() -> None:
    """Remove every fleet, the base system and all caches."""
    for name in existing():
        down(name)
    shutil.rmtree(paths.cache(), ignore_errors=False)
    if not any(paths.cache().parent.iterdir()):
        paths.cache().parent.rmdir()
    say(f"removed {paths.cache()}")


def status(fleet: Fleet) -> dict[str, Any]:
    """Return what is known of a fleet now, as shown by `status --json`."""
    document: dict[str, Any] = json.loads((fleet.directory / "fleet.json").read_text())
    document["simulated"] = True
    for entry, n in zip(document["nodes"].values(), fleet.nodes.values(), strict=True):
        entry["pid"] = holder(n.lock)
        entry["state"] = "off" if entry["pid"] is None else "up" if _answers(n) else "no ssh"
        entry["faults"] = faults.active(n) if node.leader(n) is not None else []
    return document


def _prepare(fleet: Fleet) -> dict[str, list[Path]]:
    """Make everything that nodes stand on; return the layers that nodes share, by system."""
    for n in fleet.nodes.values():
        n.directory.mkdir(parents=True, exist_ok=True)
    _login_key()
    lower = base.ensure()
    network.build(fleet.index, fleet.directory)
    repository = web.start(fleet)
    shared = {}
    for system in sorted({n.system for n in fleet.nodes.values()}):
        below, place = systems.ensure(system, lower), vendor.PLACES[system]
        extra, key = repository.root / place.extra, repository.root / place.extra_key
        url = fleet.vendor["vendor_extra_urls"][system]
        shared[system] = [layers.guest(system, below, url, extra, key), *below]
    layers.prune({repository.root, *(layer for below in shared.values() for layer in below)})
    hosts = "".join(f"{n.address} {n.name}\n" for n in fleet.nodes.values())
    for n in fleet.nodes.values():
        files = {
            "etc/hosts": f"127.0.0.1 localhost\n{hosts}{fleet.gateway} controller\n",
            "etc/sim/network": f"ADDRESS={n.address}/24\nGATEWAY={fleet.gateway}\n"
            f"VENDOR={fleet.vendor['vendor_urls'][n.system]}\n",
        }
        layers.seed(n.directory / "seed", n.name, n.hardware, files)
    fleet.save_ssh()
    return shared


def _boot(fleet: Fleet, nodes: Iterable[Node], shared: Mapping[str, list[Path]]) -> None:
    for n in nodes:
        node.start(fleet, n, [n.directory / "seed", *shared[n.system]])
    end = time.monotonic() + BOOT_DEADLINE_S
    _each(fleet.nodes.values(), lambda n: _wait(fleet, n, end))


def _wait(fleet: Fleet, n: Node, end: float) -> None:
    said = "no answer on port 22"
    while time.monotonic() < end:
        if _answers(n):
            tried = run("ssh", "-F", str(fleet.ssh_config), "-o", "BatchMode=yes", "-o",
                        "ConnectTimeout=10", n.name, "true", check=False)  # fmt: skip
            if tried.returncode == 0:
                return
            said = tried.stderr.strip()
        elif node.leader(n) is not None and "unreachable" in faults.active(n):
            return
        time.sleep(0.1)
    raise SimError(f"{n.name} did not come up: {said}; see {n.directory / 'console.log'}")


def _answers(n: Node) -> bool:
    try:
        with socket.create_connection((n.address, 22), timeout=1) as connection:
            return connection.recv(4) == b"SSH-"
    except OSError:
        return False


def _stop_all(name: str, fleet: Fleet | None) -> None:
    known = list(fleet.nodes.values()) if fleet else []
    have = {n.name for n in known}
    for directory in (paths.fleets() / name / "nodes").glob("*"):  # also where fleet.json is lost
        if directory.name not in have:
            known.append(Node(directory.name, "", "none", directory))
    stub = fleet or Fleet(name, 0, {})
    _each(known, lambda n: node.stop(stub, n))


def _login_key() -> None:
    key = paths.keys() / "id_ed25519"
    if not key.exists():
        paths.keys().mkdir(parents=True, exist_ok=True)
        run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "gpufleet-sim", "-f", str(key))
    paths.give_to_user(key, key.with_suffix(".pub"))


def _pids(fleet: Fleet) -> dict[str, int | None]:
    return {n.name: holder(n.lock) for n in fleet.nodes.values()}


def _each(nodes: Iterable[Node], do: Callable[[Node], object]) -> None:
    """Do something to nodes at once; raise one error that tells of all that failed."""
    failed = []
    with ThreadPoolExecutor(max_workers=16) as pool:
        for task in [pool.submit(do, n) for n in nodes]:
            try:
                task.result()
            except SimError as error:
                failed.append(str(error))
    if failed:
        raise SimError("\n".join(failed))


def _lock(name: str) -> Path:
    return paths.fleets() / f"{name}.lock"


@contextmanager
def _busy(fleet: Fleet) -> Iterator[None]:
    with exclusive(_lock(fleet.name), f"fleet {fleet.name}"):
        yield


def known(name: str) -> Fleet:
    """Return a fleet that exists; raise WrongUseError with the names there are."""
    fleet = load(name)
    if fleet is None:
        there = ", ".join(existing()) or "none"
        raise WrongUseError(
            f"no fleet {name!r} (there: {there}); `python -m tests.sim up` makes one"
        )
    return fleet
