"""pyinfra's Inventory, keeping what it was given: its merge hides duplicates."""

from typing import Any

from pyinfra.api.inventory import Inventory

from deploy.fleet.errors import Fault
from deploy.fleet.said import Group


class Watched(Inventory):
    """Built in place of pyinfra's own class while an inventory file is read.

    What is malformed becomes a fault and is left out, so that the rest can be checked as well.
    """

    said: tuple[Group, ...]
    faults: list[Fault]

    def __init__(self, names_data: Any, override_data: Any = None, **groups: Any) -> None:
        self.faults = []
        self.said = tuple(
            _group(name, given, self.faults)
            for name, given in {"all": names_data, **groups}.items()
        )
        everybody, *others = [(list(group.hosts), group.data) for group in self.said]
        names = [group.name for group in self.said[1:]]
        super().__init__(  # type: ignore[no-untyped-call]
            everybody, override_data, **dict(zip(names, others, strict=True))
        )


def _group(name: str, given: Any, faults: list[Fault]) -> Group:
    hosts, data = given
    if not isinstance(data, dict):
        faults.append(Fault(name, "", f"group data is {type(data).__name__}: wanted a dict"))
        data = {}
    if isinstance(hosts, str) or not isinstance(hosts, list | tuple):
        faults.append(Fault(name, "", f"hosts are {type(hosts).__name__}: wanted a list"))
        hosts = []
    pairs = []
    for host in hosts:
        pair = host if isinstance(host, tuple) else (host, {})
        if len(pair) == 2 and isinstance(pair[0], str) and pair[0] and isinstance(pair[1], dict):
            pairs.append((pair[0], dict(pair[1])))
            continue
        shown = repr(pair[0])[:60] if pair else "()"  # never the data: it may hold a password
        faults.append(Fault(name, "", f"found {shown} in it: wanted 'name' or ('name', {{...}})"))
    return Group(name, tuple(pairs), data)
