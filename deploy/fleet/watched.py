"""pyinfra's Inventory, keeping what it was given: its merge hides duplicates."""

from typing import Any

from pyinfra.api.inventory import Inventory

from deploy.fleet.errors import Fault, WrongInput
from deploy.fleet.said import Group


class Watched(Inventory):
    """Built in place of pyinfra's own class while an inventory file is read."""

    said: tuple[Group, ...]

    def __init__(self, names_data: Any, override_data: Any = None, **groups: Any) -> None:
        faults: list[Fault] = []
        self.said = tuple(
            _group(name, given, faults) for name, given in {"all": names_data, **groups}.items()
        )
        if faults:
            raise WrongInput(faults)
        super().__init__(names_data, override_data, **groups)  # type: ignore[no-untyped-call]


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
            pairs.append((pair[0], pair[1]))
        else:
            faults.append(
                Fault(
                    name,
                    "",
                    f"found {str(pair[0])[:60]!r} in it: wanted 'name' "
                    "or ('name', {...}), one pair of brackets each",
                )
            )
    return Group(name, tuple(pairs), data)
