"""IMEX, which multi-node NVLink needs beside the driver (research: provisioning 2.6, 2.8)."""

from __future__ import annotations

from . import scripts
from .driver import daemon
from .packages import Package, Text, text_file


def imex(version: str, package_version: str) -> Package:
    """The IMEX daemon of one driver version; which nodes belong together is the site's to say."""
    return Package(
        "nvidia-imex",
        package_version,
        "NVIDIA IMEX daemon",
        payload={
            "/usr/bin/nvidia-imex": daemon("IMEX", version),
            "/etc/nvidia-imex/config.cfg": Text("IMEX_NODE_CONFIG_FILE=nodes_config.cfg\n"),
            "/etc/nvidia-imex/nodes_config.cfg": Text("# One address of a node a line.\n"),
            "/lib/systemd/system/nvidia-imex.service": text_file("nvidia-imex.service"),
        },
        scripts=scripts.service("nvidia-imex.service", enabled=False),
    )
