"""Simulated kernel modules: which load on this hardware, what loading shows, what holds them.

Texts are the kernel's and kmod's own. Only the modules named here exist; any other is "not found",
as on a host where it is not installed.
"""

import glob
import os
import shutil
from pathlib import Path

import hardware
import klog
from hardware import MODULES, PROC_DRIVER, bind, bound_to, fault, write
from modconf import RELEASE, autoloaded, barred, module_file, options

COMPANIONS = ("nvidia_modeset", "nvidia_uvm")
VFIO = ("vfio_pci",)
KERNELS_OWN = (*VFIO, "ib_umad")
"""Modules that come with every kernel."""
PARAMETERS = {
    "ModifyDeviceFiles": "1",
    "DeviceFileMode": "438",
    "EnableMSI": "1",
    "EnableStreamMemOPs": "0",
    "EnableGpuFirmware": "18",
    "EnablePCIERelaxedOrderingMode": "0",
    "CreateImexChannel0": "0",
    "PreserveVideoMemoryAllocations": "0",
    "RegistryDwords": '""',
}
"""Some of what /proc/driver/nvidia/params of the real module shows, with its defaults."""
FORGOTTEN = ("power_limit_mw", "mig_mode", "mig_pending", "mig_instances")
"""Settings of a GPU that end with the driver's presence (on Hopper; Ampere keeps its MIG mode)."""
NO_GSP = ("0x1db5",)  # Volta: no GSP, so no open module, and dropped by branches after 580
LAST_BRANCH_WITH_VOLTA = 580  # research: provisioning 2.3


class RefusedError(Exception):
    """The kernel or kmod would refuse; the text is what it prints."""


def loaded(name):
    """Tell whether a module is loaded."""
    return (MODULES / name / "initstate").exists()


def load(name):
    """Load a module as modprobe does; raise RefusedError with what modprobe says."""
    if loaded(name):
        return
    if name == "nouveau":
        show_module("nouveau", "", refcnt=1)
        for slot in hardware.nvidia_functions("0x030200"):
            if bound_to(slot) is None:  # a driver that is bound keeps its device
                bind(slot, "nouveau")
        return
    if name in KERNELS_OWN:
        show_module(name, "")
        return
    found = module_file(name)
    if found is None:
        raise RefusedError(f"FATAL: Module {name} not found in directory /lib/modules/{RELEASE}")
    if name == "nvidia":
        load_nvidia(*found)
    elif not loaded("nvidia"):
        load("nvidia")
    for companion in COMPANIONS:
        if module_file(companion):
            show_module(companion, found[0])
            write(MODULES / "nvidia/holders" / companion, "")
    if not loaded(name):
        show_module(name, found[0])
    write(MODULES / "nvidia/refcnt", len(holders("nvidia")))


def load_nvidia(version, licence):
    """Probe the GPUs as nvidia.ko does and show what it then shows."""
    gpus = hardware.nvidia_functions("0x030200")
    free = [g for g in gpus if bound_to(g) is None and not hardware.lost(g)]
    device = {g: (hardware.PCI / g / "device").read_text().strip() for g in free}
    is_open = "GPL" in licence
    fits = [g for g in free if device[g] not in NO_GSP]
    if not is_open and int(version.split(".")[0]) <= LAST_BRANCH_WITH_VOLTA:
        fits = free
    if taken := [g for g in gpus if bound_to(g) is not None]:
        klog.say(f"NVRM: The NVIDIA probe routine was not called for {len(taken)} device(s).")
    for slot in (g for g in free if g not in fits):
        why = "open nvidia.ko because it does not include the required GPU System Processor (GSP)"
        klog.say(
            f"NVRM: The NVIDIA GPU {slot} (PCI ID: 10de:{device[slot][2:]}) installed in this "
            f"system is not supported by {why if is_open else f'the NVIDIA {version} driver'}."
        )
    if not fits:
        klog.say(
            "NVRM: No NVIDIA GPU found."
            if not gpus
            else "NVRM: None of the NVIDIA devices were initialized."
        )
        raise RefusedError("ERROR: could not insert 'nvidia': No such device")
    show_module("nvidia", version)
    write(MODULES / "nvidia/taint", "OE" if is_open else "POE")  # P: proprietary licence
    for slot in [*fits, *hardware.nvidia_functions("0x068000")]:
        bind(slot, "nvidia")
    kind = "UNIX Open Kernel Module for x86_64" if is_open else "UNIX x86_64 Kernel Module"
    show_driver(version, kind, fits)
    klog.say(f"NVRM: loading NVIDIA {kind}  {version}")


def show_driver(version, kind, slots):
    """Write /proc/driver/nvidia and the device files."""
    write(
        PROC_DRIVER / "nvidia/version",
        f"NVRM version: NVIDIA {kind}  {version}  Release Build  (simulated)\n"
        "GCC version:  gcc version 12.2.0 (Debian 12.2.0-14)",
    )
    shown = dict(PARAMETERS)
    for name, value in options("nvidia", "NVreg_").items():
        if name not in shown:
            klog.say(f"nvidia: unknown parameter 'NVreg_{name}' ignored", 4)
        else:
            shown[name] = str(int(value, 0)) if value[:1].isdigit() else f'"{value}"'
    write(PROC_DRIVER / "nvidia/params", "\n".join(f"{name}: {v}" for name, v in shown.items()))
    for minor, gpu in enumerate(hardware.described()["gpus"]):
        if gpu["slot"] in slots:
            show_gpu(minor)
    for name in ("nvidiactl", "nvidia-uvm", "nvidia-uvm-tools", "nvidia-modeset"):
        device_file(name)
    for index, _ in enumerate(hardware.nvidia_functions("0x068000")):
        device_file(f"nvidia-nvswitch{index}")
    if hardware.nvidia_functions("0x068000"):
        device_file("nvidia-nvswitchctl")


def show_gpu(minor):
    """Write what the driver shows of one GPU, and make its device file."""
    gpu = hardware.described()["gpus"][minor]
    write(
        PROC_DRIVER / "nvidia/gpus" / gpu["slot"] / "information",
        f"Model: \t\t {gpu['name']}\nIRQ:   \t\t 16\nGPU UUID: \t {gpu['uuid']}\n"
        f"Bus Type: \t PCIe\nBus Location: \t {gpu['slot']}\nDevice Minor: \t {minor}\n"
        "GPU Excluded:\t No",
    )
    device_file(f"nvidia{minor}")
    show_mig(minor)


def show_mig(index):
    """Show a MIG instance of a GPU while the driver is loaded and NVML says that it has one."""
    mode = hardware.NVML / str(index) / "mig_mode"
    directory = PROC_DRIVER / f"nvidia/capabilities/gpu{index}/mig"
    if not loaded("nvidia") or not mode.exists() or mode.read_text().strip() != "1":
        shutil.rmtree(directory, ignore_errors=True)
    else:
        access = "DeviceFileMinor: 3\nDeviceFileMode: 292\nDeviceFileModify: 1"
        write(directory / "gi1/access", access)


def device_file(name):
    """Make a device file: a regular file, which processes can hold open like the real one."""
    path = Path("/dev") / name
    path.touch()
    path.chmod(0o666)


def unload(name):
    """Unload a module as rmmod does; raise RefusedError with what rmmod says."""
    if not loaded(name):
        raise RefusedError(f"ERROR: Module {name} is not currently loaded")
    if users := holders(name):
        raise RefusedError(f"ERROR: Module {name} is in use by: {' '.join(users)}")
    if (name == "nouveau" and fault("nouveau")) or open_by(name):
        raise RefusedError(f"ERROR: Module {name} is in use")
    for slot in os.listdir(hardware.PCI):
        if bound_to(slot) == name.replace("_", "-" if name in VFIO else "_"):
            bind(slot, None)
    shutil.rmtree(MODULES / name)
    (MODULES / "nvidia/holders" / name).unlink(missing_ok=True)
    if loaded("nvidia"):
        write(MODULES / "nvidia/refcnt", len(holders("nvidia")))
    if name == "nvidia":
        shutil.rmtree(PROC_DRIVER / "nvidia")
        cut = {argument or "0" for kind, argument in hardware.active() if kind == "mig"}
        for index, _ in enumerate(hardware.described()["gpus"]):
            for setting in FORGOTTEN:
                if setting != "mig_mode" or str(index) not in cut:
                    (hardware.NVML / str(index) / setting).unlink(missing_ok=True)
        for file in glob.glob("/dev/nvidia*"):
            os.unlink(file)


def holders(name):
    """Return the modules that use a module."""
    directory = MODULES / name / "holders"
    return sorted(os.listdir(directory)) if directory.is_dir() else []


def open_by(name):
    """Return the ids of the processes that hold a device file of this module open."""
    files = {"nvidia_uvm": "/dev/nvidia-uvm", "nvidia_modeset": "/dev/nvidia-modeset"}
    if name != "nvidia" and name not in files:
        return []
    found = set()
    for link in glob.glob("/proc/[0-9]*/fd/*"):
        try:
            if os.readlink(link).startswith(files.get(name, "/dev/nvidia")):
                found.add(int(link.split("/")[2]))
        except OSError:
            continue
    return sorted(found)


def show_module(name, version, refcnt=0):
    """Write what /sys/module shows of a loaded module."""
    write(MODULES / name / "refcnt", refcnt)
    write(MODULES / name / "coresize", 9_000_000)
    if version:
        write(MODULES / name / "version", version)
    write(MODULES / name / "initstate", "live")


def boot():
    """Load what a kernel loads by itself: nouveau, and nvidia when it is installed."""
    record = f"/var/lib/sim/initramfs/{RELEASE}/modprobe.d"
    if fault("nouveau") and not (barred("nouveau") and barred("nouveau", [record])):
        load("nouveau")
    if hardware.described()["gpus"] and module_file("nvidia") and not barred("nvidia"):
        try:
            load("nvidia")
        except RefusedError as refused:
            klog.say(f"modprobe: {refused}")
    for name in set(autoloaded()) & set(KERNELS_OWN):
        load(name)
