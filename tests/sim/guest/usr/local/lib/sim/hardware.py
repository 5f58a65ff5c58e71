#!/usr/bin/python3
"""The simulated hardware of this node: PCI functions and NVML values, as files.

Run at boot by sim-hardware.service: builds the trees in /run/sim and binds them where the kernel
shows real ones, then does what the kernel does at boot: nouveau, then nvidia when installed.
"""

import json
import os
import struct
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

RUN = Path("/run/sim")
PCI = RUN / "pci"
DRIVERS = RUN / "pci_drivers"
MODULES = RUN / "sys/module"
PROC_DRIVER = RUN / "proc/driver"
NVML = RUN / "nvml"
FAULTS = Path("/etc/sim/faults")
INFOROM = Path("/var/lib/sim/inforom")
"""What boards keep without power."""

_UNCORRECTED = ("Undefined", "DLP", "SDES", "TLP", "FCP", "CmpltTO", "CmpltAbrt", "UnxCmplt",
                "RxOF", "MalfTLP", "ECRC", "UnsupReq", "ACSViol", "UncorrIntErr", "BlockedTLP",
                "AtomicOpBlocked", "TLPBlockedErr", "PoisonTLPBlocked")  # fmt: skip
_CORRECTED = ("RxErr", "BadTLP", "BadDLLP", "Rollover", "Timeout", "NonFatalErr", "CorrIntErr",
              "HeaderOF")  # fmt: skip
AER = {
    "correctable": ("COR", _CORRECTED),
    "nonfatal": ("NONFATAL", _UNCORRECTED),
    "fatal": ("FATAL", _UNCORRECTED),
}
"""Kinds of PCIe errors: how the kernel names their total and their members (linux: aer.c)."""
SPEED = {3: "8.0 GT/s PCIe", 4: "16.0 GT/s PCIe", 5: "32.0 GT/s PCIe"}


def described():
    """Return what stands in this node: /etc/sim/hardware.json."""
    return json.loads(Path("/etc/sim/hardware.json").read_text())


def fault(kind):
    """Tell whether a fault is active; it is a file that outlives a reboot."""
    return (FAULTS / kind).exists()


def active():
    """Return (kind, argument) of the faults that outlive a reboot."""
    for file in sorted(FAULTS.glob("*")):
        kind, _, argument = file.name.partition(":")
        yield kind, argument or file.read_text().strip()


def write(file, text):
    """Write a file of a simulated tree, one value and a line end as sysfs does."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(f"{text}\n")


def nvidia_functions(pci_class):
    """Return the slots of NVIDIA functions of one class, as the PCI tree shows them now."""
    return [
        slot.name
        for slot in sorted(PCI.iterdir())
        if (slot / "vendor").read_text().strip() == "0x10de"
        and (slot / "class").read_text().strip() == pci_class
    ]


def bound_to(slot):
    """Return the name of the driver that a function is bound to, None without one."""
    link = PCI / slot / "driver"
    return os.path.basename(os.readlink(link)) if link.is_symlink() else None


def bind(slot, driver):
    """Bind a function to a driver, or release it (None)."""
    link = PCI / slot / "driver"
    if link.is_symlink():
        (DRIVERS / bound_to(slot) / slot).unlink(missing_ok=True)
        link.unlink()
    if driver is not None:
        (DRIVERS / driver).mkdir(parents=True, exist_ok=True)
        link.symlink_to(f"../../../../bus/pci/drivers/{driver}")
        (DRIVERS / driver / slot).symlink_to(f"../../../../bus/pci/devices/{slot}")


def show_function(slot, lost=False):
    """Write the files of a PCI function that lspci, probes and checks read; ff when it is lost."""
    function = next(f for f in described()["pci"] if f["slot"] == slot)
    directory = PCI / slot
    for name in ("vendor", "device", "class", "subsystem_vendor", "subsystem_device"):
        write(directory / name, function[name])
    write(directory / "revision", "0xff" if lost else function["revision"])
    (directory / "config").write_bytes(b"\xff" * 256 if lost else config_space(function))
    for name, value in (("irq", 16), ("enable", 1), ("numa_node", 0)):
        write(directory / name, value)
    write(directory / "resource", "\n".join([" ".join([f"0x{0:016x}"] * 3)] * 13))
    names = ("vendor", "device", "subsystem_vendor", "subsystem_device")
    ids = (int(function[name], 16) for name in names)
    code = function["class"][2:].upper()
    alias = "pci:v{:08X}d{:08X}sv{:08X}sd{:08X}".format(*ids)
    write(directory / "modalias", f"{alias}bc{code[:2]}sc{code[2:4]}i{code[4:]}")
    for gpu in described()["gpus"]:
        if gpu["slot"] == slot:
            for end in ("current", "max"):
                write(directory / f"{end}_link_speed", SPEED[gpu["pcie_gen"]])
                write(directory / f"{end}_link_width", gpu["pcie_width"])
            for kind in AER:
                show_errors(slot, kind)


def show_errors(slot, kind, **counts):
    """Write the kernel's statistic of one kind of PCIe error of a function."""
    total = f"TOTAL_ERR_{AER[kind][0]} {sum(counts.values())}"
    lines = [f"{name} {counts.get(name, 0)}" for name in AER[kind][1]]
    write(PCI / slot / f"aer_dev_{kind}", "\n".join([*lines, total]))


def config_space(function):
    """Return the 256 bytes of configuration space that lspci decodes."""
    number = {key: int(value, 16) for key, value in function.items() if key != "slot"}
    head = struct.pack("<HHHHBBHBBBB", number["vendor"], number["device"], 0x0006, 0x0010,
                       number["revision"], number["class"] & 0xFF, number["class"] >> 8,
                       0, 0, 0, 0)  # fmt: skip
    sub = struct.pack("<HH", number["subsystem_vendor"], number["subsystem_device"])
    return (head.ljust(0x2C, b"\0") + sub).ljust(256, b"\0")


def lost(slot):
    """Tell whether a function fell off the bus."""
    return (PCI / slot / "revision").read_text().strip() == "0xff"


def nvml_values(index):
    """Return what NVML reports of a healthy GPU."""
    gpu = described()["gpus"][index]
    zero = ("ecc_uncorrected", "remap_pending", "remap_failed", "persistence", "recovery_action")
    return dict.fromkeys((*zero, "lost", "fabric_state"), 0) | {
        "name": gpu["name"],
        "uuid": gpu["uuid"],
        "serial": gpu["serial"],
        "pci_bus_id": gpu["slot"],
        "memory_mib": gpu["memory_mib"],
        "cc_major": gpu["compute"][0],
        "cc_minor": gpu["compute"][1],
        "pcie_gen": gpu["pcie_gen"],
        "pcie_gen_max": gpu["pcie_gen"],
        "pcie_gen_gpu": gpu["pcie_gen"],
        "pcie_width": gpu["pcie_width"],
        "pcie_width_max": gpu["pcie_width"],
    }


def mount_trees():
    """Bind the trees over the places where a kernel shows its own."""
    binds = {
        MODULES: "/sys/module",
        PROC_DRIVER: "/proc/driver",
        PCI: "/sys/bus/pci/devices",
        DRIVERS: "/sys/bus/pci/drivers",
    }
    for tree in binds:
        tree.mkdir(parents=True, exist_ok=True)
    run("mount", "-o", "remount,rw", "/sys")
    os.makedirs("/sys/module", exist_ok=True)
    for tree, place in binds.items():
        run("mount", "--bind", str(tree), place)
    run("mount", "-o", "remount,ro", "/sys")


def run(*command):
    """Run a command that must succeed."""
    subprocess.run(command, check=True)


def main():
    """Do what firmware and kernel do at boot; faults that outlive a reboot come back first."""
    import klog
    import kmod  # it uses this module
    import surroundings  # so do these

    klog.say(f"Linux version {os.uname().release} (its hardware is simulated)", 5)
    for function in described()["pci"]:
        show_function(function["slot"])
    for index, _ in enumerate(described()["gpus"]):
        for name, value in nvml_values(index).items():
            write(NVML / str(index) / name, value)
    write(NVML / "hang_s", 0)
    INFOROM.mkdir(parents=True, exist_ok=True)
    for kept in INFOROM.glob("*-ecc"):  # the mode that was asked for takes effect with a boot
        write(NVML / kept.name.partition("-")[0] / "ecc_mode", kept.read_text().strip())
    surroundings.build()
    mount_trees()
    surroundings.mount()
    for kind, argument in active():
        run(f"/usr/local/lib/sim/faults/{kind}", "boot", *([argument] if argument else []))
    kmod.boot()


if __name__ == "__main__":
    main()
