"""Training across hosts, as one host sees it: whether it can take part, and its part.

The controller starts the same on every host at once (verify/multi/) and judges what all say.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

from verify import nodes
from verify.applies import Scene
from verify.checks import HOST, Component, Look, check
from verify.told_ranks import cuda_wanted, usable_gpus
from verify.training import Document, Unusable

CPU_RANKS = 1
"""Ranks of a host that trains on its CPU."""
PORTS = 4
MARGIN_S = 15
"""Seconds that the payload has beyond its own limit."""


@check(
    "nodes.ready",
    component="training",
    level="multi-node",
    needs=("torch", "idle"),
    source="torchrun's rendezvous: a host that cannot resolve its own name fails it with a bare "
    "gaierror (tried)",
    fault="no-self-name",
)
def test_ready(
    report: dict[str, Any], scene: Scene, look: Look, measure: Callable[..., None]
) -> None:
    """The host can take part in training across hosts."""
    name = report["self_name"]
    look.at(
        Component(kind="host", name=name["name"]),
        "addresses of its own name",
        found=name["addresses"] or name["error"],
        expected="at least one, as of a line in /etc/hosts: torchrun fails without",
        held=bool(name["addresses"]),
    )
    on_gpus = cuda_wanted(scene)
    ranks = len(usable_gpus(scene)) if on_gpus else CPU_RANKS
    look.at(HOST, "ranks that it can start", found=ranks, expected="at least 1", held=ranks > 0)
    ports = report["network"]["ports"]
    measure(
        "nodes.ranks",
        "ranks",
        ranks,
        HOST,
        device="cuda" if on_gpus else "cpu",
        torch=report["torch"]["version"],
        ports=" ".join(map(str, free_ports())),
        rdma=sum(one["state"] == "ACTIVE" for one in ports),
    )


def free_ports() -> list[int]:
    """TCP ports that nobody listens on now: all held at once, so that they are different."""
    found = []
    with ExitStack() as held:
        for _ in range(PORTS):
            try:
                one = held.enter_context(socket.socket(socket.AF_INET, socket.SOCK_STREAM))
                one.bind(("", 0))
            except OSError:
                break
            found.append(int(one.getsockname()[1]))
    return found


@check(
    "nodes.took-part",
    component="training",
    level="multi-node",
    needs=("rendezvous", "torch", "idle"),
    source="ours: a payload prints one document within its time",
    fault="tmp-full",
    action="drain",
)
def test_took_part(
    scene: Scene,
    bundle: str,
    python: str,
    train: Callable[..., Document],
    hand_over: Callable[[str], None],
    look: Look,
) -> None:
    """The host takes part in a training across hosts, and says what came of its ranks."""
    rendezvous = scene.asked["rendezvous"]
    device = "cuda" if cuda_wanted(scene) else "cpu"
    words = nodes.command(python, bundle, rendezvous, device)
    said = train(rendezvous["limit"] + MARGIN_S, *words)
    try:
        found = nodes.read(said, rendezvous)
    except Unusable as reason:
        look.unknown(HOST, "training across hosts", why=str(reason), hung=reason.hung)
        return
    hand_over(json.dumps(found))
    look.at(HOST, "training across hosts", found="told", expected="told")
