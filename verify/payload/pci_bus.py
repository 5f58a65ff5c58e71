"""What the kernel says of a GPU's PCI link: errors that were reported, and what its slot can do.

Read from sysfs: aer_dev_* (Documentation/ABI/testing/sysfs-bus-pci-devices-aer_stats), the link's
attributes of the device and of the port above it. A value that is not there is null.
"""

from __future__ import annotations

import os
import re
from typing import Any

from verify.payload.reading import text_of

ROOT = "/sys/bus/pci/devices"
GENERATIONS = {2.5: 1, 5.0: 2, 8.0: 3, 16.0: 4, 32.0: 5, 64.0: 6}
"""GT/s of a lane -> generation (PCI Express Base Specification)."""
KINDS = ("correctable", "nonfatal", "fatal")


def bus(slot: str | None, root: str = ROOT) -> dict[str, Any]:
    """Errors by kind and name since boot, and the generation of the device and of its port."""
    found: dict[str, Any] = {"aer": None, "gen_max": None, "port_gen_max": None}
    if not slot:
        return found
    device = f"{root}/{slot}"
    counts = {kind: errors(text_of(f"{device}/aer_dev_{kind}")) for kind in KINDS}
    if any(one is not None for one in counts.values()):
        found["aer"] = counts
    found["gen_max"] = generation(text_of(f"{device}/max_link_speed"))
    port = os.path.dirname(os.path.realpath(device))
    found["port_gen_max"] = generation(text_of(f"{port}/max_link_speed"))
    return found


def errors(text: str) -> dict[str, int] | None:
    """Names with a count above 0, as "BadTLP 3" a line; None without a text. The total is left
    out: it is the sum of the others. Older kernels write the names out, as "Bad TLP 3"."""
    lines = re.findall(r"^([\w ()/-]{1,60}) (\d{1,18})$", text, re.MULTILINE)
    if not lines:
        return None
    return {name: int(count) for name, count in lines[:64] if int(count) and "TOTAL" not in name}


def generation(text: str) -> int | None:
    """ "32.0 GT/s PCIe" -> 5; None for "Unknown" and for what no generation has."""
    found = re.match(r"(\d+(?:\.\d+)?) GT/s", text)
    return GENERATIONS.get(float(found[1])) if found else None
