"""Rows of the checks of the host around its GPUs: network, mounts, time, kernel.

Nearly all share the batches of tests/faulted/first.py, for their findings are apart from those.
"""

from __future__ import annotations

from tests.faulted.row import H100, L40S, Row

ROWS: list[Row] = [
    Row("network.ports", "port-down:mlx5_2", H100, 1, ("network mlx5_2/1",)),
    Row("network.flaps", "port-flaps:mlx5_3", H100, 1, ("network mlx5_3/1",), "degraded"),
    Row("network.peermem", "wrong-flavour", H100, 2, ("network",), "degraded"),
    Row("host.mounts", "mount-gone", H100, 1, ("disk /data",)),
    Row("host.iommu", "acs:3", H100, 1, ("gpu 3",), "degraded"),
    Row("host.time", "clock-unsynchronised", H100, 1, ("host",), "degraded"),
    Row("host.governor", "governor-powersave", H100, 1, ("host",), "degraded"),
    Row("host.clocksource", "clocksource-hpet", L40S, 1, ("host",), "degraded"),
    Row("host.memory", "memory-lost", H100, 2, ("host",)),
    Row("host.machine-check", "memory-error", L40S, 1, ("host mc0",)),
    Row("host.stuck", "stuck", L40S, 1, ("host",)),
    # alone with what is in no log: whatever else the kernel says cannot be seen then
    Row("host.kernel-log", "log-unreadable", L40S, 3, ("host",), "degraded"),
    # what the same checks claim besides
    Row("network.ports", "port-slow:mlx5_4", H100, 2, ("network mlx5_4/1",), "degraded"),
    Row("host.mounts", "mount-readonly", H100, 2, ("disk /data",)),
    Row("host.mounts", "mount-hung", H100, 3, ("disk /data",), "hung"),
]
