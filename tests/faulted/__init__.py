"""The matrix of faults: which fault, on which node, is found by which check at which part.

One file per family of checks holds its ROWS and, where needed, what is HARMLESS; `tests.faulted`
is all of them.
"""

from __future__ import annotations

from tests.faulted import bench, deep, first, gpu, host, multi, training, workload
from tests.faulted.row import H100, V100, Row

FILES = (first, gpu, host, training, bench, workload, deep, multi)
MATRIX: list[Row] = [row for file in FILES for row in file.ROWS]
HARMLESS: dict[tuple[str, int], tuple[str, ...]] = {
    key: found for file in FILES for key, found in getattr(file, "HARMLESS", {}).items()
}
"""Node and batch -> what is there as well and is no fault of a host: a program that went wrong."""
ALONE = Row("host.reachable", "unreachable", V100, 0, ("host",), "unreachable")
"""Of a host that gives no result: no row of the matrix, for nothing else can be there with it."""
FLEET = Row("fleet.versions", "nvml:2:vbios=96.00.99.00.99", H100, 0, ("gpu 2",), "degraded")
"""Judged on the controller: no row of the matrix, whose hosts are asked without one."""
