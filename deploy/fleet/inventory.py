"""Inventories: pyinfra's files with pyinfra's meaning, refused as a whole when anything is wrong.

pyinfra merges duplicate hosts, drops groups that it does not understand and accepts every key. On
a fleet that runs jobs each of those is a host forgotten or a wish ignored, so all of them are
faults here, found before any connection is made.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from deploy.fleet.connection_keys import connection_faults, is_connection_key
from deploy.fleet.errors import Fault, WrongInput
from deploy.fleet.names import fold, name_fault, node_names, split_list
from deploy.fleet.said import Group, read_file
from deploy.fleet.spec import SPEC_KEYS, NodeSpec, read_spec


@dataclass(frozen=True)
class Host:
    """One host of a fleet: what is wished for it, and how to reach it."""

    name: str
    groups: tuple[str, ...]
    spec: NodeSpec
    data: Mapping[str, Any] = field(repr=False)
    """pyinfra's keys only (ssh_*, _sudo, docker_*). May hold passwords, so repr leaves it out."""

    @property
    def is_ssh(self) -> bool:
        """Whether the host is reached by SSH (pyinfra's connector for every plain name)."""
        return not self.name.startswith("@") or self.name.startswith(("@ssh/", "@vagrant/"))

    @property
    def address(self) -> str:
        """Name or address that the connection goes to."""
        return str(self.data.get("ssh_hostname") or self.name)


@dataclass(frozen=True)
class Fleet:
    """Hosts in inventory order."""

    name: str
    path: Path | None
    hosts: dict[str, Host]

    def limit(self, expression: str) -> "Fleet":
        """The hosts that match a comma-separated list of node sets, groups and globs.

        Raises WrongInput when a part of the list matches nothing or names hosts that are not in
        the inventory: a host that is silently left out is a host forgotten.
        """
        chosen: set[str] = set()
        faults = []
        for part in split_list(expression):
            found, fault = self._match(part)
            chosen |= found
            if fault:
                faults.append(Fault("--limit", part, fault))
        if not faults and not chosen:
            faults.append(Fault("--limit", "", "is empty: wanted hosts, groups or globs"))
        if faults:
            raise WrongInput(faults)
        hosts = {name: host for name, host in self.hosts.items() if name in chosen}
        return Fleet(self.name, self.path, hosts)

    def _match(self, part: str) -> tuple[set[str], str]:
        named = {name for name in self.hosts if name == part}
        grouped = {name for name, host in self.hosts.items() if part in host.groups}
        globbed = {name for name in self.hosts if fnmatchcase(name, part)}
        if found := named or grouped or globbed:
            return found, ""
        try:
            wanted = node_names(part)
        except ValueError:
            wanted = []
        found = {name for name in wanted if name in self.hosts}
        if found and len(found) == len(set(wanted)):
            return found, ""
        if found:
            return found, f"not in {self.name}: {fold(set(wanted) - found)}"
        groups = sorted({group for host in self.hosts.values() for group in host.groups})
        return set(), (
            f"matches none of the {len(self.hosts)} hosts of {self.name} "
            f"({_short(fold(self.hosts))}) and none of its groups ({_short(', '.join(groups))})"
        )


def read_inventory(path: str) -> Fleet:
    """The fleet that a pyinfra inventory file describes, group data included.

    Raises WrongInput with every fault of every host; equal faults of several hosts are folded.
    """
    said = read_file(path)
    faults = [*said.faults, *_duplicates(said.groups)]
    hosts: dict[str, Host] = {}
    for name, groups, values in said.hosts:
        host, wrong = _host(name, groups, values)
        faults += wrong
        if host is not None:
            hosts[name] = host
    faults += _same_machines(hosts.values())
    if not said.hosts and not faults:
        faults.append(
            Fault(path, "", "holds no hosts: wanted at least one list, as gpus = ['gpu001']")
        )
    if faults:
        raise WrongInput(_folded(faults))
    return Fleet(Path(path).stem, Path(path), hosts)


def named_hosts(nodeset: str, data: dict[str, Any]) -> Fleet:
    """A fleet without inventory: names as on `-w`, the same connection keys for all."""
    try:
        names = node_names(nodeset)
    except ValueError as error:
        raise WrongInput([Fault("-w", nodeset, str(error))]) from None
    faults = [] if names else [Fault("-w", "", "names no host: wanted for example gpu[001-004]")]
    hosts: dict[str, Host] = {}
    for name in dict.fromkeys(names):
        host, wrong = _host(name, (), dict(data))
        faults += wrong
        if host is not None:
            hosts[name] = host
    faults += _same_machines(hosts.values())
    if faults:
        raise WrongInput(_folded(faults))
    return Fleet(nodeset, None, hosts)


def _host(
    name: str, groups: tuple[str, ...], values: Mapping[str, Any]
) -> tuple[Host | None, list[Fault]]:
    wrong = name_fault(name)
    faults = [Fault(ascii(name)[:80], "", wrong)] if wrong else []
    where = ascii(name)[:80] if wrong else name
    data, wishes = {}, {}
    for key, value in values.items():
        if key in SPEC_KEYS:
            wishes[key] = value
        elif is_connection_key(key):
            if value is not None:
                data[key] = value
        elif not callable(value):  # a helper in a group_data file is no wish
            wishes[key] = value
    faults += connection_faults(where, data)
    spec, wrong_wishes = read_spec(where, wishes)
    faults += wrong_wishes
    if len(faults) > len(wrong_wishes):
        return None, faults
    # A host with wrong wishes never leaves the reader, but its address is compared with others'.
    host = Host(name, groups, spec or NodeSpec(), data)
    if host.is_ssh:
        # pyinfra's default adds unknown keys without asking: over a fleet that is no check.
        data = {"ssh_strict_host_key_checking": "yes", **data}
        host = Host(name, groups, host.spec, data)
    return host, faults


def _duplicates(groups: Iterable[Group]) -> list[Fault]:
    """Hosts named twice in one group, or given different values in two places of equal rank."""
    faults = []
    on_hosts: dict[tuple[str, str], list[tuple[str, Any]]] = defaultdict(list)
    in_groups: dict[tuple[str, str], list[tuple[str, Any]]] = defaultdict(list)
    for group in groups:
        seen: set[str] = set()
        for name, data in group.hosts:
            if name in seen:
                faults.append(Fault(name, "", f"named twice in group {group.name}"))
            seen.add(name)
            for key, value in data.items():
                on_hosts[name, key].append((group.name, value))
        if group.name != "all":  # pyinfra's base for everybody: any group may override it
            for name in seen:
                for key, value in group.data.items():
                    in_groups[name, key].append((group.name, value))
    for (name, key), values in in_groups.items():
        if (name, key) not in on_hosts:
            faults += _conflict(name, key, values)
    for (name, key), values in on_hosts.items():
        faults += _conflict(name, key, values)
    return faults


def _conflict(name: str, key: str, values: list[tuple[str, Any]]) -> list[Fault]:
    first_group, first = values[0]
    for group, value in values[1:]:
        if type(value) is not type(first) or value != first:
            return [Fault(name, key, f"groups {first_group} and {group} give it different values")]
    return []


def _same_machines(hosts: Iterable[Host]) -> list[Fault]:
    """Two names that lead to one address and port: each would be changed twice, at once."""
    places: dict[tuple[str, int], str] = {}
    faults = []
    broken: set[str] = set()
    for host in hosts:
        if not host.is_ssh:
            continue
        try:
            place = _place(host)
        except Exception as error:  # what paramiko raises on a configuration it cannot parse
            file = str(host.data.get("ssh_config_file", "~/.ssh/config"))
            if file not in broken:
                faults.append(Fault(file, "", f"cannot be read: {ascii(str(error))[1:-1][:200]}"))
            broken.add(file)
            continue
        if place in places:
            message = f"leads to {place[0]} port {place[1]}, and so does {places[place]}"
            faults.append(Fault(host.name, "ssh_hostname", message))
        places.setdefault(place, host.name)
    return faults


def _place(host: Host) -> tuple[str, int]:
    from deploy.fleet.ssh_config import ssh_config

    name = host.address.removeprefix("@ssh/")
    found = ssh_config(host.data.get("ssh_config_file")).lookup(name)
    port = host.data.get("ssh_port") or found.get("port") or 22
    return str(found.get("hostname", name)).lower(), int(port)


def _folded(faults: Iterable[Fault]) -> list[Fault]:
    alike: dict[tuple[str, str], list[str]] = defaultdict(list)
    for fault in faults:
        alike[fault.key, fault.message].append(fault.where)
    return [Fault(fold(where), key, message) for (key, message), where in alike.items()]


def _short(text: str) -> str:
    return text if len(text) <= 80 else text[:77] + "..."
