"""What stands around the GPUs of this node: bridges, network ports, clocks, memory, as files.

hardware.py builds it at boot. /sys/class and /sys/devices/system are the kernel's own with ours in
front (overlayfs), for no folder can be made in sysfs; a value that is written below /run/sim shows
at once. The processors say nothing of the hypervisor that this machine may run under.
"""

import os
import re
import struct
from pathlib import Path

import hardware
from hardware import PCI, RUN, described, run, write

CLASS, SYSTEM = RUN / "sys/class", RUN / "sys/devices/system"
PORTS = CLASS / "infiniband"
CONTROLLER = SYSTEM / "edac/mc/mc0"
SHARED = "/data"
"""A filesystem that jobs need, as a filer's would be."""
TIME = RUN / "synchronised"
"""yes or no, for timedatectl."""
NETWORK_CARD = {"vendor": "0x15b3", "device": "0x1021", "class": "0x020700"}
"""A ConnectX-7 as an InfiniBand controller (pci.ids: 15b3:1021 MT2910 Family)."""
BRIDGE = {"vendor": "0x1000", "device": "0xc030", "class": "0x060400"}
"""A port of a PCIe switch (pci.ids: 1000:c030 PEX890xx PCIe Gen 5 Switch)."""


def build():
    """Write everything, before the places where a kernel shows it are covered."""
    for index, gpu in enumerate(described()["gpus"]):
        show_bridge(index)
        write(PCI / gpu["slot"] / "iommu_group/type", "identity")
    for index in range(described()["network_ports"]):
        show_port(index)
    for file in Path("/sys/devices/system/cpu").glob("cpu[0-9]*"):
        write(SYSTEM / "cpu" / file.name / "cpufreq/scaling_governor", "performance")
    write(SYSTEM / "clocksource/clocksource0/current_clocksource", "tsc")
    for name in ("ue_count", "ce_count", "dimm0/dimm_ue_count", "dimm0/dimm_ce_count"):
        write(CONTROLLER / name, 0)
    write(CONTROLLER / "dimm0/dimm_label", "CPU_SrcID#0_MC#0_Chan#0_DIMM#0")
    write(TIME, "yes")
    text = Path("/proc/cpuinfo").read_text()
    (RUN / "cpuinfo").write_text(re.sub(r" hypervisor\b", "", text))


def mount():
    """Cover the kernel's places; the shared filesystem comes with the network, here at once."""
    for tree, place in ((CLASS, "/sys/class"), (SYSTEM, "/sys/devices/system")):
        tree.mkdir(parents=True, exist_ok=True)
        run("mount", "-t", "overlay", "sim", "-o", f"ro,lowerdir={tree}:{place}", place)
    run("mount", "--bind", str(RUN / "cpuinfo"), "/proc/cpuinfo")
    mount_shared()


def mount_shared(*options):
    """Mount the shared filesystem; another filer's content each time."""
    os.makedirs(SHARED, exist_ok=True)
    run("mount", "-t", "tmpfs", "-o", ",".join(["size=16m,mode=1777", *options]), "filer", SHARED)


def slot_of_port(index):
    """Return where a network card sits: beside the GPU of its index."""
    return f"0000:{0x18 + index * 0x10:02x}:00.0"


def show_port(index, state="4: ACTIVE", phys_state="5: LinkUp", rate="400 Gb/sec (4X NDR)"):
    """Write the files of an InfiniBand port and of its card."""
    slot, place = slot_of_port(index), PORTS / f"mlx5_{index}"
    show_card(slot)
    (place / "ports/1").mkdir(parents=True, exist_ok=True)
    device = place / "device"
    if not device.is_symlink():
        device.symlink_to(f"../../../bus/pci/devices/{slot}")
    for name, value in (("link_layer", "InfiniBand"), ("state", state), ("phys_state", phys_state),
                        ("rate", rate)):  # fmt: skip
        write(place / "ports/1" / name, value)
    for name in ("link_downed", "link_error_recovery", "symbol_error"):
        write(place / "ports/1/counters" / name, 0)


def show_card(slot):
    """Write the PCI function of a network card."""
    for name, value in NETWORK_CARD.items():
        write(PCI / slot / name, value)
    write(PCI / slot / "revision", "0x00")
    write(PCI / slot / "resource", "\n".join([" ".join([f"0x{0:016x}"] * 3)] * 13))
    for name in ("subsystem_vendor", "subsystem_device"):
        write(PCI / slot / name, NETWORK_CARD[name.rpartition("_")[2]])
    number = {key: int(value, 16) for key, value in NETWORK_CARD.items()}
    head = struct.pack("<HHHHBBH", number["vendor"], number["device"], 6, 16, 0, 0, 0x0207)
    (PCI / slot / "config").write_bytes(head.ljust(256, b"\0"))
    hardware.bind(slot, "mlx5_core")


def show_bridge(index, redirects=False):
    """Write the port of the PCIe switch above a GPU; `redirects` switches ACS on in it."""
    bus = int(described()["gpus"][index]["slot"].split(":")[1], 16)
    slot = f"0000:{bus - 4:02x}:00.0"
    for name, value in BRIDGE.items():
        write(PCI / slot / name, value)
    write(PCI / slot / "revision", "0x01")
    write(PCI / slot / "resource", "\n".join([" ".join([f"0x{0:016x}"] * 3)] * 13))
    for name in ("subsystem_vendor", "subsystem_device"):
        write(PCI / slot / name, BRIDGE[name.rpartition("_")[2]])
    number = {key: int(value, 16) for key, value in BRIDGE.items()}
    head = struct.pack("<HHHHBBH", number["vendor"], number["device"], 7, 16, 1, 0, 0x0604)
    # Header type 1 at 0x0E; primary, secondary and subordinate bus from 0x18 on.
    space = bytearray(head.ljust(4096, b"\0"))
    space[0x0E] = 1
    space[0x18:0x1B] = bytes([bus - 4, bus - 3, bus])
    # The extended capability ACS, alone in its list: header, what the bridge could, what it does.
    control = 0x001D if redirects else 0
    space[0x100:0x108] = struct.pack("<IHH", 0x0001000D, 0x001F, control)
    (PCI / slot / "config").write_bytes(space)
