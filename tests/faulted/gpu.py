"""Rows of the checks of what GPUs, links and the fabric say of themselves.

They share the batches of tests/faulted/first.py: each fault is of a GPU of its own, or is told by a
check of its own, so that a batch more costs nothing.
"""

from __future__ import annotations

from tests.faulted.row import H100, L40S, V100, Row

ROWS = [
    Row("gpu.recovery", "nvml:0:recovery_action=1", H100, 1, ("gpu 0",)),
    Row("gpu.sram", "nvml:2:sram_parity=5", H100, 1, ("gpu 2",)),
    Row("gpu.sxid", "sxid:0:20034", H100, 1, ("fabric NVSwitch",)),
    Row("gpu.clocks", "nvml:5:clocks_event_reasons=0x89", H100, 1, ("gpu 5",)),
    Row("gpu.temperature", "nvml:3:temperature=91", H100, 1, ("gpu 3",)),
    Row("gpu.power", "nvml:2:power_limit_mw=500000", H100, 1, ("gpu 2",), "degraded"),
    Row("gpu.pcie-gen", "nvml:4:pcie_gen_max=3", H100, 1, ("gpu 4",), "degraded"),
    Row("gpu.pcie-errors", "aer:5:nonfatal:MalfTLP=2", H100, 1, ("gpu 5",)),
    Row("gpu.nvlink", "nvml:7:nvlinks_down=1", H100, 1, ("gpu 7",)),
    Row("gpu.nvlink-errors", "nvml:6:nvlink_recovery=2", H100, 1, ("gpu 6",), "degraded"),
    Row("fabric.health", "nvml:7:fabric_health=0x19a", H100, 1, ("gpu 7",)),
    Row("gpu.compute-mode", "nvml:0:compute_mode=2", L40S, 1, ("gpu 0",)),
    Row("gpu.leaked", "nvml:1:memory_used_mib=2048", L40S, 1, ("gpu 1",), "degraded"),
    # what the same checks claim besides, each on a board where it is told in another way
    Row("gpu.temperature", "nvml:1:temperature=85", L40S, 1, ("gpu 1",), "degraded"),
    Row("gpu.clocks", "nvml:0:clocks_event_reasons=0x24", L40S, 1, ("gpu 0",), "degraded"),
    Row("gpu.nvlink", "nvml:3:nvlinks_down=1", V100, 1, ("gpu 3",)),
    Row("gpu.nvlink-errors", "nvml:2:nvlink_replay=1", V100, 1, ("gpu 2",), "degraded"),
    Row("gpu.pcie-errors", "nvml:0:pcie_replay=100000000", V100, 1, ("gpu 0",), "degraded"),
    Row("gpu.compute-mode", "nvml:3:compute_mode=3", V100, 3, ("gpu 3",), "degraded"),
    Row("gpu.xid", "xid:1:154", V100, 2, ("gpu 1",)),  # the line itself asks for a reset
]
