"""Ports of InfiniBand, RoCE and EFA: what carries training across hosts."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from verify.applies import Scene
from verify.checks import Component, Look, check

NETWORK = Component(kind="network")
LEAST_SIBLINGS = 4
"""Fewer ports of one model say nothing about each other: ours, for a median needs some."""
DMA_BUF_SINCE = (5, 12)
"""Kernel from which on RDMA registers DMA-BUF: NVIDIA, GPU Operator, GPUDirect RDMA."""
DAY_S, HOUR_S = 86400.0, 3600.0


def component(port: dict[str, Any]) -> Component:
    """A port as others name it: device/port."""
    return Component(kind="network", name=name(port), slot=str(port.get("slot", "")))


def name(port: dict[str, Any]) -> str:
    """mlx5_0/1."""
    return f"{port['device']}/{port['port']}"


def active(port: dict[str, Any]) -> bool:
    """Whether the link is up and the subnet manager, where there is one, has taken it in."""
    return port["state"] == "ACTIVE" and port["phys_state"] in ("LinkUp", "")


def state(port: dict[str, Any]) -> str:
    """The port's own words."""
    words = [word for word in (port["state"], port["phys_state"]) if word]
    return ", ".join(words) or "it tells no state"


def recorded(scene: Scene) -> dict[str, dict[str, Any]]:
    """Ports that were active in the last good run, by name."""
    ports = (scene.record or {}).get("ports") or []
    return {name(one): one for one in ports}


@check(
    "network.ports",
    component="network",
    needs=("network",),
    action="drain",
    source="Linux, sysfs-class-infiniband; Azure/azurehpc-health-checks, leptonai/gpud, Imbue's "
    "cluster-health: count, state and rate of ports",
    fault="port-down:mlx5_2",
)
def test_ports(scene: Scene, report: dict[str, Any], look: Look) -> None:
    """Every network port that is wanted, or was there in the last good run, is up at full rate.

    A port that is down and that neither the inventory's `network_ports` nor the last good run
    counts on is no fault: cards for Ethernet show RoCE ports whether they are in use or not. Half
    of a cable's lanes can be meant as well (HDR100 is 2X); so a rate is held against the port's
    own in the last good run, else against most ports of its model.
    """
    network = report["network"]
    if network["error"]:
        look.unknown(NETWORK, "ports", why=network["error"])
        return
    ports = {name(one): one for one in network["ports"]}
    before = recorded(scene)
    wanted = (scene.expected or {}).get("network_ports")
    up = [port for port in ports.values() if active(port)]
    missing = [one for one in before if one not in ports or not active(ports[one])]
    for one in missing:
        look.at(
            component(ports.get(one, before[one])),
            "link",
            found=state(ports[one]) if one in ports else "the port is gone",
            expected="active, as in the last good run",
            held=False,
            baseline="history",
            evidence=("gpufleet verify --accept-hardware counts on it no more",),
        )
    enough = wanted is None or len(up) + len(missing) >= wanted  # what is missing is named
    down = [port for port in ports.values() if not active(port) and name(port) not in missing]
    if not enough and not missing and len(ports) >= (wanted or 0):
        for port in down:
            look.at(
                component(port),
                "link",
                found=state(port),
                expected=f"active: {wanted} ports are wanted, {len(up)} are up",
                baseline=scene.expected_from,
            )
    elif not enough or not missing:
        look.at(
            NETWORK,
            "active ports",
            found=f"{len(up)} of {len(ports)}",
            expected=f"at least {wanted}" if wanted is not None else "as many as are counted on",
            held=enough,
            baseline=scene.expected_from
            if wanted is not None
            else "history"
            if before
            else "claim",
        )
    for port in up:
        _rate(port, before.get(name(port)), up, look)


def _rate(
    port: dict[str, Any], before: dict[str, Any] | None, up: list[dict[str, Any]], look: Look
) -> None:
    """Held against the port's own past, else against most of its siblings."""
    found = port["rate_gbs"]
    wanted, baseline = (before or {}).get("rate_gbs"), "history"
    if wanted is None:
        alike = [
            one["rate_gbs"]
            for one in up
            if (one["model"], one["link_layer"]) == (port["model"], port["link_layer"])
            and one["rate_gbs"] is not None
        ]
        best = max(alike, default=None)
        most = best is not None and alike.count(best) * 2 > len(alike) >= LEAST_SIBLINGS
        wanted, baseline = best if most else None, "neighbours"
    if found is None:
        look.unknown(component(port), "rate of the link", why="the port tells none")
    elif wanted is not None:
        lanes = f" ({port['lanes']} lanes)" if port["lanes"] else ""
        look.at(
            component(port),
            "rate of the link",
            found=f"{found:g} Gb/s{lanes}",
            expected=f"{wanted:g} Gb/s",
            held=found >= wanted,
            verdict="degraded",
            baseline=baseline,
        )


@check(
    "network.flaps",
    component="network",
    verdict="degraded",
    needs=("network", "links"),
    action="service",
    source="Azure/azurehpc-health-checks (2026-05): 5 carrier losses in 24 h; NVIDIA, ibdiagnet "
    "User Manual: BER 10^-12",
    fault="port-flaps:mlx5_3",
)
def test_flaps(report: dict[str, Any], threshold: Callable[[str], float], look: Look) -> None:
    """No network port that is in use loses its link again and again, or reads broken symbols."""
    network = report["network"]
    uptime = network["uptime_s"]
    used = [one for one in network["ports"] if active(one) and one["driver"] != "efa"]
    if not used:
        look.at(NETWORK, "ports in use", found=0, expected="any number", held=True)
    most, ber = threshold("network.losses-per-day"), threshold("network.symbol-ber")
    for port in used:
        counts = [port["carrier_lost"], port["link_downed"]]
        known = [count for count in counts if count is not None]
        if not known or not uptime:
            look.unknown(component(port), "losses of the link", why="neither sysfs counts them")
            continue
        losses = max(known)
        daily = losses / max(uptime / DAY_S, 1.0)
        look.at(
            component(port),
            "losses of the link",
            found=f"{losses} since boot, {daily:.1f} in 24 h",
            expected=f"fewer than {most:g} in 24 h",
            held=daily < most,
            verdict="degraded",
        )
        errors, rate = port["symbol_errors"], port["rate_gbs"]
        if errors is None or not rate:
            continue  # Ethernet has no such counter
        found = errors / (rate * 1e9 * max(uptime, HOUR_S))
        look.at(
            component(port),
            "broken symbols",
            found=f"{errors} since boot, {found:.1e} a bit",
            expected=f"at most {ber:.0e} a bit",
            held=found <= ber,
            verdict="degraded",
        )


@check(
    "network.peermem",
    component="network",
    verdict="degraded",
    needs=("nvml", "network", "gpudirect"),
    source="NVIDIA, GPU Operator, GPUDirect RDMA (DMA-BUF: open modules, kernel 5.12); NCCL, "
    "ncclIbGdrSupport: where it looks for nvidia_peermem",
    fault="wrong-flavour",
)
def test_peermem(report: dict[str, Any], look: Look) -> None:
    """Network cards can read the GPUs' memory: by DMA-BUF, or by nvidia_peermem that is loaded."""
    what = "way to the GPUs' memory"
    expected = "nvidia_peermem loaded, or open modules and a kernel from 5.12 (DMA-BUF)"
    network, modules = report["network"], report["modules"]
    if network["error"]:
        look.unknown(NETWORK, what, why=network["error"])
    elif network["peermem"]:
        look.at(NETWORK, what, found="nvidia_peermem", expected=expected, held=True)
    elif modules["flavour"] == "closed":
        look.at(
            NETWORK,
            what,
            found="none: closed modules, and no nvidia_peermem",
            expected=f"{expected}; `modprobe nvidia_peermem` loads it",
            held=False,
            verdict="degraded",
        )
    elif modules["flavour"] == "open":
        _dma_buf(report["kernel"]["running"], what, expected, look)
    else:
        why = "which flavour of the driver's modules is loaded could not be told"
        look.unknown(NETWORK, what, why=why)


def _dma_buf(running: str, what: str, expected: str, look: Look) -> None:
    """What the running kernel's version says; that of EL 8 says nothing, for much is brought back
    to it."""
    version = re.match(r"(\d+)\.(\d+)", running)
    if version is None or ".el8" in running:
        look.unknown(NETWORK, what, why=f"the version {running} does not tell whether it has it")
        return
    new = (int(version[1]), int(version[2])) >= DMA_BUF_SINCE
    look.at(
        NETWORK,
        what,
        found=f"{'DMA-BUF' if new else 'none'}: open modules, kernel {running}",
        expected=expected,
        held=new,
        verdict="degraded",
    )
