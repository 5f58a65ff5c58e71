"""Rows of the checks of state: GPUs, driver, packages, environment, the host itself."""

from __future__ import annotations

from tests.faulted.row import H100, L40S, V100, Row

ROWS = [
    Row("gpu.answers", "gpu-lost:1", H100, 1, ("gpu 1",)),
    Row("gpu.identity", "nvml:2:serial=9999999999999", H100, 1, ("gpu 2",), "degraded"),
    Row("gpu.ecc", "nvml:3:ecc_uncorrected=3", H100, 1, ("gpu 3",)),
    Row("gpu.remap-pending", "nvml:4:remap_pending=1", H100, 1, ("gpu 4",)),
    Row("gpu.remap-failed", "nvml:5:remap_failed=1", H100, 1, ("gpu 5",)),
    Row("gpu.pcie-width", "pcie-width:6:8", H100, 1, ("gpu 6",), "degraded"),
    Row("gpu.xid", "xid:7:48", H100, 1, ("gpu 7",)),
    Row("gpu.mig", "mig:0", H100, 1, ("gpu 0",), "degraded"),
    Row("host.self-name", "no-self-name", H100, 1, ("host h100-01",)),
    Row("driver.nouveau", "nouveau", H100, 1, ("driver nouveau",)),
    Row("fabric.manager", "fabric-stopped", H100, 2, ("service nvidia-fabricmanager",)),
    Row("gpu.count", "gpu-absent:1", H100, 2, ("gpu 1",)),
    Row("host.expected", "expected-drift", H100, 2, ("host",), "degraded"),
    Row("driver.flavour", "wrong-flavour", H100, 2, ("driver nvidia",)),
    Row("nvml.answers", "nvml-hang", H100, 3, ("driver NVML",), "hung"),
    Row("torch.libraries", "library-in-front", L40S, 1, ("library lib",)),
    Row("torch.arch-list", "arch-list", L40S, 1, ("gpu 0", "gpu 1")),
    Row("torch.devices", "fewer-devices", L40S, 1, ("gpu 1",)),
    Row("env.wheels", "wheel-version", L40S, 1, ("wheel numpy",)),
    Row("stack.packages", "package-version", L40S, 1, ("package libcudnn9",)),
    Row("stack.origin", "second-origin", L40S, 1, ("package libnccl2",), "degraded"),
    Row("host.disk", "tmp-full", L40S, 1, ("disk /tmp",)),
    Row("env.works", "env-broken", L40S, 2, ("environment",)),
    Row("env.pip-check", "pip-check", L40S, 3, ("environment",)),
    Row("gpu.retired-pages", "nvml:1:retired_pending=1", V100, 1, ("gpu 1",)),
    Row(
        "gpu.persistence", "persistence-off", V100, 1, ("service nvidia-persistenced",), "degraded"
    ),
    Row("driver.next-boot", "next-kernel", V100, 1, ("driver nvidia for",)),
    Row("driver.version", "stale-module", V100, 2, ("driver nvidia",)),
    # what the same checks claim besides
    Row("gpu.answers", "foreign-vfio:2", V100, 3, ("gpu 2",)),
    Row("driver.next-boot", "reboot-required", V100, 3, ("package libc6",), "degraded"),
]

HARMLESS = {(V100, 3): ("xid:0:31",)}
