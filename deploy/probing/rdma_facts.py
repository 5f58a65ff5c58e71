"""The RDMA stack of a host, whoever brought it, and how the driver's own parts fit it. Pure."""

import re
from typing import Any

from deploy.fleet.model import Model

SYMBOL = "ib_register_peer_memory_client"
"""What nvidia-peermem takes from OFED's ib_core. The kernel refuses a module whose checksum of a
symbol is not the one that the provider was built with, and nvidia-peermem that was built where
there was no such symbol refuses to start; both show as "Invalid argument" (NVIDIA/nccl issue 1939,
gpu-operator issue 2868; nvidia-peermem.c of the open kernel modules, 2026-11)."""


class Peermem(Model):
    """The driver's nvidia-peermem on disk against the installed OFED, for one kernel."""

    kernel: str
    built_against: str | None
    """Checksum of SYMBOL that it asks for; "" when it was built without OFED; None: unreadable."""
    ofed_has: str
    """Checksum of SYMBOL in the installed OFED; "" when no OFED serves this kernel."""


class Rdma(Model):
    """OFED or DOCA-OFED, EFA, RDMA devices, and what of the driver stands on them."""

    ofed: str = ""
    """As `ofed_info -s` says, "" without OFED."""
    efa: str = ""
    """Version of the EFA installer, "" without."""
    devices: tuple[str, ...] = ()
    """RDMA devices that the kernel shows, as mlx5_0."""
    loaded: tuple[str, ...] = ()
    """Loaded modules among those that concern RDMA and GPUs."""
    autoload: tuple[str, ...] = ()
    """Modules of these that somebody else's modules-load.d names."""
    restart: bool = False
    """The loaded ib_core is not the installed one: OFED changed and has not been restarted."""
    peermem: tuple[Peermem, ...] = ()
    imex_nodes: int = 0
    """Nodes that /etc/nvidia-imex/nodes_config.cfg names."""


def read_rdma(lines: list[str], root: bool, unknown: dict[str, str]) -> dict[str, Any]:
    """From the probe's part `rdma`."""
    found: dict[str, list[str]] = {}
    for line in lines:
        tag, _, rest = line.partition(" ")
        found.setdefault(tag, []).append(rest)
    offers = dict(_pair(words) for words in found.get("offers", ()))
    peermem = []
    for words in found.get("peermem", ()):
        kernel, asked = _pair(words)
        built = None if asked == "unreadable" else _checksum(asked)
        peermem.append(
            Peermem(
                kernel=kernel, built_against=built, ofed_has=_checksum(offers.get(kernel, "none"))
            )
        )
    efa = re.search(r"EFA installer version: (\S+)", "\n".join(found.get("efa", ())))
    return {
        "rdma": Rdma(
            ofed="".join(found.get("ofed", ())[:1]).rstrip(":")[:100],
            efa=efa[1][:40] if efa else "of unknown version" if "efa" in found else "",
            devices=tuple(sorted(found.get("device", ()))),
            loaded=tuple(sorted(found.get("loaded", ()))),
            autoload=tuple(sorted({name.replace("-", "_") for name in found.get("autoload", ())})),
            restart="restart" in found,
            peermem=tuple(peermem),
            imex_nodes=int("".join(found.get("imex", ["0"]))),
        )
    }


def _pair(words: str) -> tuple[str, str]:
    first, _, second = words.partition(" ")
    return first, second


def _checksum(word: str) -> str:
    if word == "none":
        return ""
    if not re.fullmatch(r"0x[0-9a-f]{8}", word):
        raise ValueError(f"{word[:20]!r} is no checksum")
    return word


def read_cdi(lines: list[str], root: bool, unknown: dict[str, str]) -> dict[str, Any]:
    """From the probe's part `cdi`: a specification of GPUs, and the driver that it was made of."""
    found = {}
    for line in lines:
        path, version = _pair(line.removeprefix("cdi "))
        found[path] = version
    return {"cdi": found}
