"""The container toolkit with its CDI units, and the NVLink 5 subnet manager, as names that install.

The toolkit's own job is stood in for by a script: `nvidia-ctk cdi generate` writes a specification
with one device for each GPU that the driver shows, and the library of the driver that is installed.
"""

from __future__ import annotations

from . import scripts
from .packages import Package, Text, text_file

TOOLKIT = "1.18.2-1"
NVLSM = "2025.10.11-1"
UNITS = ("nvidia-cdi-refresh.path", "nvidia-cdi-refresh.service")


def packages() -> list[Package]:
    """All of them."""
    exactly = f"(= {TOOLKIT})"
    return [
        Package("libnvidia-container1", TOOLKIT, "NVIDIA container runtime library"),
        Package(
            "libnvidia-container-tools",
            TOOLKIT,
            "NVIDIA container runtime library (command-line tools)",
            relations={"Depends": f"libnvidia-container1 {exactly}"},
        ),
        Package(
            "nvidia-container-toolkit-base",
            TOOLKIT,
            "NVIDIA Container Toolkit Base",
            payload={
                "/usr/bin/nvidia-ctk": text_file("nvidia-ctk", 0o755),
                **{f"/usr/lib/systemd/system/{unit}": text_file(unit) for unit in UNITS},
            },
            scripts={
                "postinst": f'{scripts.HEAD}[ "$1" != configure ] || systemctl daemon-reload\n'
            },
        ),
        Package(
            "nvidia-container-toolkit",
            TOOLKIT,
            "NVIDIA Container toolkit",
            relations={
                "Depends": f"nvidia-container-toolkit-base {exactly}, "
                f"libnvidia-container-tools {exactly}"
            },
            payload={"/usr/bin/nvidia-container-runtime-hook": Text("#!/bin/sh\nexit 1\n", 0o755)},
        ),
        Package("nvlsm", NVLSM, "NVLink Subnet Manager"),
    ]
