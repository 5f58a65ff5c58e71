"""The vendor's repository for Enterprise Linux 9: names, epochs, module streams.

Names and shapes: research provisioning 2.5-2.7. The points that a deploy can trip over:
- driver packages carry epoch 3, the fabric manager epoch 0 and no Requires on the driver;
- a package that a module stream lists is invisible until that stream is enabled, and a module has
  one enabled stream at a time: a change of branch or flavour is a change of stream;
- a module build that fails does not fail the transaction (`|| :` in the scriptlet);
- packages start no service, they only enable the persistence daemon.
"""

from __future__ import annotations

from . import containers, interconnect, libraries, toolkit
from .branches import BRANCHES
from .driver import LIB, VERSIONS, cuda_number, daemon, module_sources, nvml
from .packages import Compiled, Link, Payload, Text, shared_library, text_file
from .rpm import Rpm, from_deb

LIB64 = "/usr/lib64"
RENAMED = {
    "libnccl2": "libnccl",
    "libnccl-dev": "libnccl-devel",
    "libcudnn9-dev-": "libcudnn9-devel-",
}
LDCONFIG = "/sbin/ldconfig\n"
FLAVOURS = {
    "open": ("kmod-nvidia-open-dkms", "nvidia-open", "Dual MIT/GPL"),
    "closed": ("kmod-nvidia-latest-dkms", "nvidia", "NVIDIA"),
}
"""Flavour: its package, the name of its DKMS module, its licence."""


def packages() -> list[Rpm]:
    """Everything of the vendor's repository."""
    found = [rpm for version in VERSIONS for rpm in (*driver(version), *fabric(version))]
    for package in toolkit.packages() + libraries.packages() + containers.packages():
        if package.name not in ("cudnn", "cudnn9"):
            found.append(from_deb(package, RENAMED, (LIB, LIB64)))
    return found


def driver(version: str) -> list[Rpm]:
    """User space, tied to itself exactly, and both flavours of the kernel module."""
    exactly = f"= 3:{version}"
    major = cuda_number(version)

    def package(name: str, summary: str, **more: object) -> Rpm:
        return Rpm(name, version, "1.el9", summary, epoch=3, **more)  # type: ignore[arg-type]

    def libs(*stems: str, **compiled: Compiled) -> dict[str, Payload]:
        files: dict[str, Payload] = {}
        for stem in stems:
            files |= _library(stem, version, shared_library(f"{stem}.so.1", version))
        for stem, what in compiled.items():
            files |= _library(stem.replace("_", "-"), version, what)
        return files

    cuda = Compiled(
        "libcuda.c", (("VERSION", f'"{version}"'), ("CUDA", str(major))), "libcuda.so.1"
    )
    kmods = [
        package(
            name,
            f"NVIDIA kernel module, DKMS source ({licence})",
            requires=("dkms", f"nvidia-kmod-common {exactly}"),
            provides=(f"nvidia-kmod {exactly}", f"kmod-nvidia {exactly}"),
            conflicts=tuple(other for other, _, _ in FLAVOURS.values() if other != name),
            payload=_sources(module, version, licence),
            post=f"dkms add -m {module} -v {version} -q --rpm_safe_upgrade || :\n"
            f"dkms build -m {module} -v {version} -q || :\n"
            f"dkms install -m {module} -v {version} -q --force || :\n",
            preun=f"dkms remove -m {module} -v {version} -q --all --rpm_safe_upgrade || :\n",
        )
        for name, module, licence in FLAVOURS.values()
    ]
    return [
        *kmods,
        package(
            "libnvidia-ml",
            "NVIDIA Management Library (NVML)",
            payload=libs(libnvidia_ml=nvml(version)),
            post=LDCONFIG,
            postun=LDCONFIG,
        ),
        package(
            "nvidia-driver-cuda-libs",
            "NVIDIA CUDA Driver Library",
            requires=(f"libnvidia-ml {exactly}",),
            payload=libs("libnvidia-ptxjitcompiler", "libcudadebugger", libcuda=cuda),
            post=LDCONFIG,
            postun=LDCONFIG,
        ),
        package(
            "libnvidia-cfg",
            "NVIDIA configuration library",
            payload=libs("libnvidia-cfg"),
            post=LDCONFIG,
            postun=LDCONFIG,
        ),
        package(
            "nvidia-driver-cuda",
            "CUDA integration for nvidia-driver",
            requires=(f"nvidia-driver-cuda-libs {exactly}", f"nvidia-kmod-common {exactly}",
                      f"nvidia-persistenced {exactly}"),
            payload={"/usr/bin/nvidia-smi": Compiled("nvidia-smi.c")},
        ),
        package(
            "nvidia-kmod-common",
            "Common files for NVIDIA's kernel modules",
            arch="noarch",
            requires=(f"nvidia-kmod {exactly}", f"nvidia-modprobe {exactly}"),
            payload={f"/usr/lib/firmware/nvidia/{version}/gsp_ga10x.bin": Text("simulated\n")},
        ),
        package(
            "nvidia-modprobe",
            "NVIDIA kernel module loader",
            payload={
                "/usr/bin/nvidia-modprobe": Text(
                    "#!/bin/sh\n# Simulated: loads the modules, the device files come with them.\n"
                    "exec modprobe nvidia\n",
                    0o755,
                )
            },
        ),
        package(
            "nvidia-persistenced",
            "Daemon to maintain persistent software state in the NVIDIA driver",
            requires=(f"libnvidia-cfg {exactly}",),
            payload={
                "/usr/bin/nvidia-persistenced": daemon("PERSISTENCED", version),
                "/usr/lib/systemd/system/nvidia-persistenced.service": text_file(
                    "nvidia-persistenced.service"
                ),
            },
            post=_unit("nvidia-persistenced.service", "enable"),
            preun=_gone("nvidia-persistenced.service"),
        ),
        package(
            "nvidia-driver",
            "NVIDIA's driver, with graphics",
            requires=(f"nvidia-driver-cuda-libs {exactly}", f"nvidia-kmod-common {exactly}"),
        ),
        *(
            package(meta, "NVIDIA driver meta-package", arch="noarch",
                    requires=(f"nvidia-driver >= 3:{version}",
                              f"{FLAVOURS[flavour][0]} >= 3:{version}"))
            for meta, flavour in (("nvidia-open", "open"), ("cuda-drivers", "closed"))
        ),
    ]  # fmt: skip


def fabric(version: str) -> list[Rpm]:
    """NVSwitch and multi-node packages: epoch 0, and none of them requires the driver."""
    nscq = shared_library("libnvidia-nscq.so.2", version)
    return [
        Rpm(
            "nvidia-fabricmanager",
            version,
            "1",
            "Fabric Manager for NVSwitch based systems",
            payload={
                "/usr/bin/nv-fabricmanager": daemon("FABRICMANAGER", version),
                "/usr/bin/nvidia-fabricmanager-start.sh": text_file(
                    "nvidia-fabricmanager-start.sh", 0o755
                ),
                "/usr/share/nvidia/nvswitch/fabricmanager.cfg": Text(
                    "LOG_LEVEL=4\nDAEMONIZE=1\nFABRIC_MODE=0\n"
                ),
                "/usr/lib/systemd/system/nvidia-fabricmanager.service": text_file(
                    "nvidia-fabricmanager.service"
                ),
            },
            post=_unit("nvidia-fabricmanager.service"),
            preun=_gone("nvidia-fabricmanager.service"),
        ),
        from_deb(interconnect.imex(version, f"{version}-1"), {}, (LIB, LIB64)),
        Rpm(
            "libnvidia-nscq",
            version,
            "1",
            "NVSwitch Configuration and Query library",
            payload=_library("libnvidia-nscq", version, nscq, 2),
            post=LDCONFIG,
            postun=LDCONFIG,
        ),
    ]


def modules() -> str:
    """modules.yaml: module nvidia-driver, a stream for each branch and flavour, and the moving
    ones; `open-dkms` is the default."""
    documents = [
        "document: modulemd-defaults\nversion: 1\ndata:\n  module: nvidia-driver\n"
        "  stream: open-dkms\n  profiles:\n"
        + "".join(f"    {stream}: [default]\n" for stream, _, _ in _streams())
    ]
    for number, (stream, versions, flavour) in enumerate(_streams()):
        other = next(FLAVOURS[f][0] for f in FLAVOURS if f != flavour)
        meta = "cuda-drivers" if flavour == "open" else "nvidia-open"
        artifacts = [
            rpm.nevra
            for version in versions
            for rpm in (*driver(version), *fabric(version))
            if rpm.name not in (other, meta)
        ]
        documents.append(
            "document: modulemd\nversion: 2\ndata:\n  name: nvidia-driver\n"
            f"  stream: {stream}\n  version: 20261101{number:04}\n  context: 0simulat\n"
            f"  arch: x86_64\n  summary: NVIDIA driver, {stream} (simulated)\n"
            "  description: >-\n    Simulated.\n  license:\n    module: [MIT]\n"
            "  dependencies:\n  - {}\n  profiles:\n"
            f"    default:\n      rpms: [nvidia-driver, {FLAVOURS[flavour][0]}]\n"
            f"    fm:\n      rpms: [nvidia-driver, {FLAVOURS[flavour][0]}, nvidia-fabricmanager]\n"
            "  artifacts:\n    rpms:\n" + "".join(f"    - {one}\n" for one in artifacts)
        )
    return "".join(f"---\n{one}...\n" for one in documents)


def _streams() -> list[tuple[str, tuple[str, ...], str]]:
    """(stream, driver versions in it, flavour)."""
    found = []
    for branch in BRANCHES:
        versions = tuple(v for v in VERSIONS if v.startswith(f"{branch}."))
        found += [(f"{branch}-open", versions, "open"), (f"{branch}-dkms", versions, "closed")]
    return [*found, ("open-dkms", VERSIONS, "open"), ("latest-dkms", VERSIONS, "closed")]


def _library(stem: str, version: str, what: Compiled, major: int = 1) -> dict[str, Payload]:
    full = f"{stem}.so.{version}"
    return {f"{LIB64}/{full}": what, f"{LIB64}/{stem}.so.{major}": Link(full)}


def _sources(module: str, version: str, licence: str) -> dict[str, Payload]:
    """As on Debian; DKMS puts modules into extra/ on this system."""
    files: dict[str, Payload] = {}
    for path, text in module_sources(module, version, licence).items():
        files[path] = Text(text.content.replace("/updates/dkms", "/extra"), text.mode)
    return files


def _unit(unit: str, action: str = "") -> str:
    script = "systemctl daemon-reload || :\n"
    return script + (f'[ "$1" != 1 ] || systemctl {action} {unit} || :\n' if action else "")


def _gone(unit: str) -> str:
    return f'[ "$1" != 0 ] || systemctl disable --now {unit} || :\n'
