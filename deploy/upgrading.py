"""Moving named parts of a lock and leaving the others as they are locked. Pure.

What is not to move is solved for as if the inventory named its locked version, and is then taken
from the old stack with every package. The environment stays whole while nothing of it is to move;
else the versions of its wheels are preferred where they still fit.
"""

import re
from collections.abc import Callable, Collection, Iterator, Mapping

from deploy.fleet.errors import Fault, WrongInput
from deploy.fleet.inventory import Fleet, Host
from deploy.fleet.spec import NONE, NodeSpec
from deploy.lock import Lock, spec_digest
from deploy.solving.offers import matches
from deploy.solving.parts import EnvironmentWish
from deploy.stack import Blocked, Solution, Stack, TorchEnvironment

PARTS = {
    "driver": ("driver", "driver_modules", "origin"),
    "cuda": ("cuda",),
    "cudnn": ("cudnn",),
    "nccl": ("nccl",),
    "dcgm": ("dcgm",),
    "container-toolkit": ("container_toolkit",),
    "torch": ("torch", "torch_build"),
    "python": ("python",),
    "extras": (),
}
"""What can be moved by name, and the inventory keys that pin it. Fabric manager and IMEX follow the
driver; `extras` is every wheel but torch."""
IN_ENVIRONMENT = frozenset({"torch", "python", "extras"})

Resolve = Callable[[EnvironmentWish, TorchEnvironment], TorchEnvironment | str]


def named(words: Collection[str]) -> frozenset[str]:
    """The parts to move; all of them for no word. Raises WrongInput for a word that is no part."""
    wrong = sorted(set(words) - set(PARTS))
    if wrong:
        raise WrongInput(
            [
                Fault(
                    "lock",
                    "--upgrade",
                    f"found {word!r}: wanted one of {', '.join(PARTS)} (fabric manager and IMEX "
                    "follow driver; extras is every wheel but torch)",
                )
                for word in wrong
            ]
        )
    return frozenset(words) or frozenset(PARTS)


class Kept:
    """What of a lock stays, for the hosts of a fleet."""

    def __init__(self, fleet: Fleet, lock: Lock, moving: frozenset[str]) -> None:
        self.moving = moving
        self._lock = lock
        self._fleet = fleet

    def fleet(self) -> Fleet:
        """The fleet with what stays as pins."""
        hosts = {name: self._pinned(host) for name, host in self._fleet.hosts.items()}
        return Fleet(self._fleet.name, self._fleet.path, hosts)

    def _pinned(self, host: Host) -> Host:
        stack = self._lock.stack_of(host.name)
        if stack is None:
            return host
        pins = dict(_pins(host.spec, stack, self.moving))
        spec = host.spec.model_copy(update=pins)
        return Host(name=host.name, groups=host.groups, spec=spec, data=host.data)

    def environment(
        self, name: str, wish: EnvironmentWish, resolve: Resolve
    ) -> TorchEnvironment | str | None:
        """The environment of a host; None when nothing of it is locked, so that it is resolved
        as that of any other."""
        stack, host = self._lock.stack_of(name), self._fleet.hosts[name]
        locked = stack.environment if stack else None
        if locked is None:
            return None
        same = self._lock.hosts[name].spec == spec_digest(host.spec)
        had = (locked.torch, locked.build, locked.python)
        if (
            same
            and not self.moving & IN_ENVIRONMENT
            and had == (wish.torch, wish.build, wish.python)
        ):
            return locked
        left: dict[str, object] = {}
        if "extras" in self.moving:
            left["requirements"] = ()
        if "python" in self.moving:
            left["managed_python"] = None
        return resolve(wish, locked.model_copy(update=left))

    def solution(self, solution: Solution) -> Solution:
        """A host's answer with every part that stays as it was locked, packages included; a block
        says which pins of the lock stand against it."""
        old = self._lock.stack_of(solution.host)
        if old is None:
            return solution
        if solution.blocked is not None:
            blocked = self._explained(solution.blocked, old)
            return solution.model_copy(update={"blocked": blocked})
        assert solution.stack is not None
        stack = _with_old_parts(solution.stack, old, self.moving)
        return solution.model_copy(update={"stack": stack})

    def _explained(self, blocked: Blocked, old: Stack) -> Blocked:
        spec = self._fleet.hosts[blocked.host].spec
        pins = dict(_pins(spec, old, self.moving))
        if not pins or blocked.rule in ("unreachable", "unusable-answer", "repository"):
            return blocked
        again = f"gpufleet lock {self._fleet.path or 'INVENTORY'} --limit {blocked.host} --upgrade"
        parts = {key: part for part, keys in PARTS.items() for key in keys if key in pins}
        ways = []
        for way in blocked.unblock:
            said = re.match(r"(?:leave )?([a-z_]+)\b", way)
            part = parts.get(said[1]) if said else None
            words = [one for one in PARTS if one in self.moving or one == part]
            ways.append(f"{again} {' '.join(words)}" if part else way)
        if not any(way.startswith(again) for way in ways):
            ways.append(again)
        stays = ", ".join(f"{key} {value}" for key, value in pins.items())
        reason = f"{blocked.reason}; kept as locked: {stays}"
        return blocked.model_copy(update={"reason": reason, "unblock": tuple(dict.fromkeys(ways))})


def _pins(spec: NodeSpec, stack: Stack, moving: Collection[str]) -> Iterator[tuple[str, str]]:
    """Inventory keys with which the solver finds what is locked; what the inventory names itself
    in other words than the lock stays the inventory's."""
    environment = stack.environment
    driver = stack.driver
    locked: dict[str, str] = {key: part.version for key, part in stack.components}
    if driver:
        locked |= {
            "driver": driver.version,
            "driver_modules": driver.flavour,
            "origin": driver.origin,
        }
    if environment:
        locked |= {"torch": environment.torch, "torch_build": environment.build}
        locked["python"] = environment.python
    for part, keys in PARTS.items():
        for key in keys:
            wish, value = getattr(spec, key), locked.get(key)
            if part in moving or value is None or wish in (NONE, value):
                continue
            if wish in (None, "auto", "latest") or matches(value, wish):
                yield key, value


def _with_old_parts(new: Stack, old: Stack, moving: Collection[str]) -> Stack:
    update: dict[str, object] = {}
    driver, was = new.driver, old.driver
    stays = "driver" not in moving and driver and was and _same_driver(driver, was)
    if stays:
        update["driver"] = was
    had: Mapping[str, object] = dict(old.components)
    for field, component in new.components:
        part = "driver" if field in ("fabric", "imex") else field.replace("_", "-")
        before = getattr(old, field)
        if part not in moving and field in had and before.version == component.version:
            update[field] = before
    kept = new.model_copy(update=update)
    if (kept.driver, kept.components) == (old.driver, old.components) or _same_place(old, new):
        # An adopted stack has none, and needs none while all of it stays.
        return kept.model_copy(update={"repository": old.repository})
    return kept


def _same_driver(one: object, other: object) -> bool:
    return all(
        getattr(one, field) == getattr(other, field) for field in ("version", "flavour", "origin")
    )


def _same_place(one: Stack, other: Stack) -> bool:
    first, second = one.repository, other.repository
    if first is None or second is None:
        return first is second
    return (first.kind, first.url, first.key_fingerprint) == (
        second.kind,
        second.url,
        second.key_fingerprint,
    )
