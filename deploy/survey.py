"""One probe of every host of a fleet, all at once."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from deploy.facts import NodeFacts
from deploy.fleet.become import REFUSALS
from deploy.fleet.inventory import Fleet, Host
from deploy.fleet.reach import queue_s
from deploy.fleet.spec import NodeSpec
from deploy.fleet.transport import Connection, Unreachable, connect, on_each
from deploy.probing.probe import BadProbe, escaped, new_nonce, parse, script

__all__ = ["BadProbe", "Survey", "probe", "survey"]

CONNECT_S = 10.0
PROBE_S = 25.0
MOST_BYTES = 1_500_000
"""What a host may print, login noise included. The largest answers are below 300 kB."""


@dataclass
class Survey:
    """What a sweep found. Every host of the fleet is in `facts` or in `failed`."""

    facts: dict[str, NodeFacts] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    """Host -> why there are no facts: unreachable, or an answer that is none."""
    unusable: set[str] = field(default_factory=set)
    """Those of `failed` that were reached and gave an answer that cannot be used: truncated, huge,
    hostile or late. They are blocked, for what is needed is unknown."""
    connections: dict[str, Connection] = field(default_factory=dict)
    """Of hosts with facts, when the sweep was asked to keep them open."""

    @property
    def unreachable(self) -> dict[str, str]:
        """Host -> why it could not be looked at."""
        return {name: why for name, why in self.failed.items() if name not in self.unusable}

    def close(self) -> None:
        """Close every connection that was kept."""
        for connection in self.connections.values():
            connection.close()
        self.connections.clear()


def probe(connection: Connection, spec: NodeSpec, timeout_s: float = PROBE_S) -> NodeFacts:
    """Probe a connected host with one command.

    Raises BadProbe when no usable answer comes within `timeout_s`.
    """
    nonce = new_nonce()
    result = connection.run_script(
        script(nonce, spec),
        timeout_s=timeout_s,
        limit=MOST_BYTES,
        root=spec.privileged,
    )
    if result.trouble:
        raise BadProbe(connection.host, result.trouble)
    try:
        facts = parse(connection.host, nonce, result.out)
    except BadProbe as bad:
        last = escaped(result.err).strip().rpartition("\n")[2][:200]
        raise BadProbe(bad.host, bad.reason + f"; it said: {last}" * bool(last)) from None
    said = [line for line in result.err.splitlines() if line.startswith(REFUSALS)]
    if facts.root or not said:
        return facts
    unknown = {**facts.unknown, "root": f"{facts.unknown['root']} ({escaped(said[-1])[:200]})"}
    return facts.model_copy(update={"unknown": unknown})


def survey(
    fleet: Fleet,
    *,
    keep_open: bool = False,
    ended: Callable[[str], None] | None = None,
    at_once: int = 256,
) -> Survey:
    """Probe every host at once. One host that hangs, dies or lies costs only itself.

    `ended` is told the name of every host that is done.
    """
    found = Survey()

    def visit(host: Host) -> tuple[NodeFacts, Connection]:
        connection = connect(host, CONNECT_S)
        try:
            facts = probe(connection, host.spec, PROBE_S)
        except BaseException:
            connection.close()
            raise
        if not keep_open:
            connection.close()
        return facts, connection

    deadline = CONNECT_S + PROBE_S + 5 + queue_s(fleet.hosts.values(), CONNECT_S)
    for name, result in on_each(fleet.hosts.values(), visit, deadline_s=deadline, at_once=at_once):
        if isinstance(result, BadProbe | Unreachable | TimeoutError):
            found.failed[name] = str(result)
            if isinstance(result, BadProbe):
                found.unusable.add(name)
        elif isinstance(result, Exception):
            found.failed[name] = f"{name}: {type(result).__name__}: {result}"
        else:
            found.facts[name], connection = result
            if keep_open:
                found.connections[name] = connection
        if ended is not None:
            ended(name)
    for name, other in twins(found.facts, fleet.hosts).items():
        del found.facts[name]
        found.failed[name] = f"{name}: is the same machine as {other}: name it once"
        if kept := found.connections.pop(name, None):
            kept.close()
    return found


def twins(facts: Mapping[str, NodeFacts], order: Iterable[str]) -> dict[str, str]:
    """Hosts that turn out to be a machine that an earlier name stands for, and that name.

    Containers of one machine share its boot_id and are hosts of their own.
    """
    seen: dict[str, str] = {}
    found = {}
    for name in order:
        one = facts.get(name)
        if one is None or one.boot_id is None or one.container != "":
            continue
        if one.boot_id in seen:
            found[name] = seen[one.boot_id]
        seen.setdefault(one.boot_id, name)
    return found
