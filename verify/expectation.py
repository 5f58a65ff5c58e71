"""What the fleet's lock makes every host expect, and where it answers no more. Pure."""

from difflib import get_close_matches

from deploy.fleet.errors import Fault
from deploy.fleet.inventory import Fleet
from deploy.fleet.names import fold
from deploy.lock import Lock, expected_state, spec_digest
from verify import thresholds

Expected = dict[str, dict[str, object] | None]


def expectations(fleet: Fleet, lock: Lock | None) -> tuple[Expected, dict[str, str]]:
    """Expected state per host, and a warning per host that the lock does not answer.

    A host without one is held against its own record. A lock that no longer answers the
    inventory is still what the hosts were brought to, so it is used, and said.
    """
    expected: Expected = {}
    warnings: dict[str, str] = {}
    again = f"gpufleet lock {fleet.path or 'INVENTORY'}"
    for name, host in fleet.hosts.items():
        stack = lock.stack_of(name) if lock else None
        if stack is not None:
            expected[name] = expected_state(
                name, host.spec, stack, gpus=host.spec.gpus, nvswitches=None
            )
        else:
            expected[name] = None
        if lock is None:
            continue
        if name in lock.hosts and lock.hosts[name].spec != spec_digest(host.spec):
            warnings[name] = f"its wishes changed since it was locked; run {again}"
        elif stack is None and name in lock.blocked:
            warnings[name] = "the lock has no stack for it: held against its own record"
        elif stack is None:
            warnings[name] = f"is not in the lock: held against its own record; run {again}"
    return expected, warnings


def threshold_faults(fleet: Fleet) -> list[Fault]:
    """Names in the inventory's `thresholds` that no check reads, one fault a name with its hosts:
    a figure that nothing reads would let its owner believe that something is held against it."""
    hosts: dict[str, list[str]] = {}
    for host in fleet.hosts.values():
        for name in thresholds.unknown(dict(host.spec.thresholds)):
            hosts.setdefault(name, []).append(host.name)
    faults = []
    for name, among in sorted(hosts.items()):
        near = get_close_matches(name, thresholds.THRESHOLDS, n=1)
        hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(thresholds.THRESHOLDS)}"
        faults.append(Fault(fold(among), "thresholds", f"no check reads {name!r}; {hint}"))
    return faults
