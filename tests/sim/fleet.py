"""A fleet as data: its nodes, addresses and files. Nothing here starts or stops anything."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.sim import network, paths
from tests.sim.proc import SimError, WrongUseError, exclusive
from tests.sim.profiles import FLEETS, HARDWARE
from tests.sim.systems import DEFAULT, SYSTEMS

VENDOR_PORT = 8077


@dataclass(frozen=True)
class Node:
    """One node of a fleet; `directory` holds its layers, log and lock."""

    name: str
    address: str
    hardware: str
    directory: Path
    system: str = DEFAULT

    @property
    def kind(self) -> str:
        """HARDWARE, with @SYSTEM where that is not the default, as profiles have it."""
        return self.hardware if self.system == DEFAULT else f"{self.hardware}@{self.system}"

    @property
    def lock(self) -> Path:
        """The lock that the node's supervisor holds while the node is on."""
        return self.directory / "lock"


@dataclass
class Fleet:
    """A fleet and where its files are."""

    name: str
    index: int
    nodes: dict[str, Node]
    vendor: dict[str, Any] = field(default_factory=dict)

    @property
    def directory(self) -> Path:
        """The directory of the fleet."""
        return paths.fleets() / self.name

    @property
    def gateway(self) -> str:
        """The machine's address in the fleet's network: the controller, and the vendor's server."""
        return network.address(self.index, 1)

    @property
    def ssh_config(self) -> Path:
        """A configuration for `ssh -F`."""
        return self.directory / "ssh_config"

    def node(self, name: str) -> Node:
        """Return a node by name; raise WrongUseError with the names there are."""
        if name not in self.nodes:
            raise WrongUseError(
                f"no node {name!r} in fleet {self.name}; nodes: {', '.join(self.nodes)}"
            )
        return self.nodes[name]

    def save(self, pids: Mapping[str, int | None]) -> None:
        """Write fleet.json, ssh_config and known_hosts for controllers and tests."""
        nodes: dict[str, Any] = {
            n.name: {
                "address": n.address,
                "hardware": n.hardware,
                "system": n.system,
                "pid": pids.get(n.name),
            }
            for n in self.nodes.values()
        }
        document = {
            "name": self.name,
            "index": self.index,
            "subnet": network.subnet(self.index),
            "gateway": self.gateway,
            **self.vendor,
            "nodes": nodes,
        }
        _replace(self.directory / "fleet.json", json.dumps(document, indent=2) + "\n")

    def save_ssh(self) -> None:
        """Write ssh_config and known_hosts; every node's host key must exist."""
        known, config = [], []
        for node in self.nodes.values():
            public = node.directory / "seed/etc/ssh/ssh_host_ed25519_key.pub"
            kind, key, *_ = public.read_text().split()
            known.append(f"{node.name},{node.address} {kind} {key}\n")
            config.append(
                f"Host {node.name}\n"
                f"  HostName {node.address}\n"
                f"  User ops\n"
                f"  IdentityFile {paths.keys() / 'id_ed25519'}\n"
                f"  IdentitiesOnly yes\n"
                f"  UserKnownHostsFile {self.directory / 'known_hosts'}\n"
                f"  StrictHostKeyChecking yes\n"
            )
        _replace(self.directory / "known_hosts", "".join(known))
        _replace(self.ssh_config, "\n".join(config))


def load(name: str) -> Fleet | None:
    """Read a fleet from its directory, None when it has none; WrongUseError on a bad name."""
    if not paths.valid_name(name):
        raise WrongUseError(f"fleet name {name!r}: use a-z, 0-9 and -, starting with a letter")
    file = paths.fleets() / name / "fleet.json"
    try:
        document = json.loads(file.read_text())
        nodes = {
            k: (v["address"], f"{v['hardware']}@{v.get('system', DEFAULT)}")
            for k, v in document["nodes"].items()
        }
        vendor = {k: v for k, v in document.items() if k.startswith(("vendor_", "wheels_"))}
        return _make(name, int(document["index"]), nodes, vendor)
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as broken:
        raise SimError(f"{file} is damaged; `python -m tests.sim down --fleet {name}`") from broken


def existing() -> list[str]:
    """Return the names of the fleets that have a directory."""
    return sorted(d.name for d in paths.fleets().glob("*") if d.is_dir())


def define(name: str, wanted: Mapping[str, str] | None) -> Fleet:
    """Return the fleet of this name: the one that exists, or a new one with the wanted nodes.

    Without `wanted` a new fleet gets the profile of its own name, else `demo`. Raises WrongUseError
    when the wanted nodes are not those of the fleet that exists.
    """
    with exclusive(paths.cache() / "fleets.lock", "choosing addresses", deadline_s=60):
        fleet = load(name)
        if fleet is not None:
            have = {n.name: n.kind for n in fleet.nodes.values()}
            if wanted is not None and dict(wanted) != have:
                raise WrongUseError(
                    f"fleet {name} has nodes {_show(have)}, not {_show(wanted)}; "
                    f"first: python -m tests.sim down --fleet {name}"
                )
            return fleet
        chosen = dict(wanted or FLEETS.get(name, FLEETS["demo"]))
        _check(chosen)
        fleet = _make(name, 0, {}, {})
        fleet.index = _index(fleet)
        places = enumerate(chosen.items(), start=11)
        nodes = {n: (network.address(fleet.index, host), hw) for host, (n, hw) in places}
        fleet = _make(name, fleet.index, nodes, {})
        fleet.directory.mkdir(parents=True, exist_ok=True)
        fleet.save({})
        return fleet


def _make(
    name: str, index: int, nodes: Mapping[str, tuple[str, str]], vendor: dict[str, Any]
) -> Fleet:
    base = paths.fleets() / name / "nodes"
    made = {}
    for node, (address, kind) in nodes.items():
        hardware, _, system = kind.partition("@")
        made[node] = Node(node, address, hardware, base / node, system or DEFAULT)
    return Fleet(name, index, made, vendor)


def _index(fleet: Fleet) -> int:
    others = {f.index for n in existing() if n != fleet.name and (f := load(n)) is not None}
    # The demo fleet's addresses are written in an inventory, so no other fleet takes them.
    for index in (0,) if fleet.name == "demo" else range(1, 255):
        if index not in others and network.usable(index, fleet.directory):
            return index
    raise SimError("no network of 10.77.0.0/16 is free for this fleet: see `ip address`")


def _check(nodes: Mapping[str, str]) -> None:
    wrong = [f"node name {n!r}" for n in nodes if not paths.valid_name(n)]
    for name, kind in nodes.items():
        hardware, _, system = kind.partition("@")
        if hardware not in HARDWARE:
            wrong.append(f"hardware {hardware!r} of {name}")
        if (system or DEFAULT) not in SYSTEMS:
            wrong.append(f"system {system!r} of {name}")
    if not 1 <= len(nodes) <= 200:
        wrong.append(f"{len(nodes)} nodes (1 to 200)")
    if wrong:
        raise WrongUseError(
            f"{'; '.join(wrong)}; hardware: {', '.join(HARDWARE)}; systems: {', '.join(SYSTEMS)}"
        )


def _show(nodes: Mapping[str, str]) -> str:
    return ",".join(f"{n}:{h}" for n, h in nodes.items())


def _replace(file: Path, text: str) -> None:
    partial = file.with_suffix(".new")
    partial.write_text(text)
    paths.give_to_user(partial)
    partial.replace(file)
