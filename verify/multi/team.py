"""Who takes part in training across hosts, and where they meet. Pure."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from verify.runner import Answer

LIMIT_S = 120
"""Of one test; on two simulated hosts that share two cores a healthy one takes 27 s."""
PATIENCE_S = 20
Rendezvous = dict[str, str | int | bool]


@dataclass(frozen=True)
class Member:
    """A host that can take part."""

    name: str
    address: str
    """By which the others reach it."""
    ranks: int
    device: str
    torch: str
    ports: tuple[int, ...]
    """Free when it was asked."""
    rdma: int
    """Active InfiniBand, RoCE and EFA ports."""


def team(
    answers: Iterable[Answer], addresses: Mapping[str, str]
) -> tuple[dict[str, Member], dict[str, str]]:
    """Members by name, and of every other host why it is none."""
    able: dict[str, Member] = {}
    left: dict[str, str] = {}
    for answer in answers:
        found = _member(answer, addresses[answer.host])
        if isinstance(found, Member):
            able[answer.host] = found
        else:
            left[answer.host] = found
    kinds = Counter((one.device, one.torch) for one in able.values())
    if len(kinds) > 1:
        device, torch = max(kinds, key=lambda kind: (kinds[kind], kind))
        for name, one in list(able.items()):
            if (one.device, one.torch) != (device, torch):
                del able[name]
                left[name] = (
                    f"it has torch {one.torch} on {one.device}, most hosts {torch} on {device}: "
                    "same_torch in the inventory gives all one torch"
                )
    return dict(sorted(able.items())), left


def _member(answer: Answer, address: str) -> Member | str:
    result = answer.result
    if result is None:
        return answer.message or answer.silence
    for one in result.not_asked:
        if one.id == "nodes.ready":
            return one.reason
    for check in result.checks:
        if check.id == "nodes.ready" and check.findings:
            first = check.findings[0]
            return f"{first.what}: {first.found}"
    for figure in result.measurements:
        if figure.name == "nodes.ranks":
            told = figure.conditions
            ports = told.get("ports", "").split()
            rdma = told.get("rdma", "")
            return Member(
                name=answer.host,
                address=address,
                ranks=max(1, min(64, int(figure.value))),
                device="cuda" if told.get("device") == "cuda" else "cpu",
                torch=told.get("torch", ""),
                ports=tuple(int(one) for one in ports if one.isdecimal() and len(one) <= 5),
                rdma=int(rdma) if rdma.isdecimal() else 0,
            )
    return "it did not say how many ranks it can start"


def meeting(group: Iterable[Member], word: str, turn: int) -> dict[str, Rendezvous]:
    """What each member of a test is told. The first one serves: a test of a pair with another
    partner has another server. `word` tells this test from all others; `turn` counts them."""
    members = sorted(group, key=lambda one: one.name)
    server = members[turn % len(members)]
    ports = server.ports or (29500,)
    return {
        one.name: {
            "nodes": len(members),
            "ranks": one.ranks,
            "endpoint": f"{server.address}:{ports[turn % len(ports)]}",
            "id": word,
            "serve": one is server,
            "limit": LIMIT_S,
            "patience": PATIENCE_S,
        }
        for one in members
    }
