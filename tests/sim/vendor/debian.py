"""The "Debian extra" repository: what a node would get from Debian if Debian knew its kernel.

- linux-headers-<release> and linux-image-<release> for the machine's kernel and for a second one,
  `<release>+next`, which no machine runs;
- dkms, a stand-in newer than Debian's own;
- Debian's own NVIDIA driver 535 under Debian's names and versions, the second origin that a host
  with non-free enabled has: same package names as the vendor's, other versions.
"""

from __future__ import annotations

import re

from . import driver, scripts
from .packages import Link, Package, Text, text_file

DKMS_VERSION = "3.0.10-8+sim"
DEBIAN_DRIVER = "535.247.01"
DEBIAN_REVISION = "-1~deb12u1"


def packages(kernel_release: str) -> list[Package]:
    """Everything of the extra repository for a machine with this kernel."""
    return system(kernel_release) + debian_driver()


def system(kernel_release: str) -> list[Package]:
    """What every system of debs needs for this kernel and the next."""
    found = [dkms()]
    for release in (kernel_release, next_release(kernel_release)):
        found += kernel(release)
    return found


def next_release(kernel_release: str) -> str:
    """The release of the second kernel."""
    return f"{kernel_release}+next"


def package_suffix(release: str) -> str:
    """A release as part of a package name: dpkg knows only lower case and no underscore."""
    return re.sub(r"[^a-z0-9.+-]", "-", release.lower())


def dkms() -> Package:
    """DKMS: files/dkms, its helper for packages, its hooks for kernels."""
    hook = text_file("dkms-kernel-hook", 0o755)
    return Package(
        "dkms",
        DKMS_VERSION,
        "Dynamic Kernel Module System (DKMS)",
        architecture="all",
        section="kernel",
        relations={"Depends": "kmod, gcc, make"},
        payload={
            "/usr/sbin/dkms": text_file("dkms", 0o755),
            "/usr/lib/dkms/common.postinst": text_file("dkms-common.postinst", 0o755),
            "/etc/kernel/postinst.d/dkms": hook,
            "/etc/kernel/header_postinst.d/dkms": hook,
        },
    )


def kernel(release: str) -> list[Package]:
    """Headers that a module can be compiled against, and a kernel that is one in name."""
    suffix = package_suffix(release)
    sources = f"/usr/src/linux-headers-{release}"
    return [
        Package(
            f"linux-headers-{suffix}",
            "1.0-1",
            f"Header files for Linux {release}",
            section="kernel",
            payload={
                f"{sources}/include/generated/utsrelease.h": Text(
                    f'#define UTS_RELEASE "{release}"\n'
                ),
                f"{sources}/Makefile": Text("# simulated kernel headers\n"),
                f"/lib/modules/{release}/build": Link(sources),
            },
            scripts=scripts.kernel_hooks("header_postinst.d", release),
        ),
        Package(
            f"linux-image-{suffix}",
            "1.0-1",
            f"Linux {release}",
            section="kernel",
            relations={"Provides": "linux-image"},
            payload={
                f"/boot/vmlinuz-{release}": Text("simulated kernel image\n"),
                f"/lib/modules/{release}/modules.order": Text(""),
                f"/lib/modules/{release}/modules.builtin": Text(""),
            },
            scripts=scripts.kernel_hooks("postinst.d", release, f"/boot/vmlinuz-{release}"),
        ),
    ]


def debian_driver() -> list[Package]:
    """Debian's NVIDIA packages: user space, and two module flavours under Debian's names.

    Debian calls the open one nvidia-open-kernel-dkms and names the DKMS module nvidia-current
    (research: provisioning 2.6).
    """
    version = f"{DEBIAN_DRIVER}{DEBIAN_REVISION}"
    found = driver.user_space(DEBIAN_DRIVER, version, "nvidia-graphics-drivers")
    for name, other, module, licence in (
        ("nvidia-kernel-dkms", "nvidia-open-kernel-dkms", "nvidia-current", "NVIDIA"),
        ("nvidia-open-kernel-dkms", "nvidia-kernel-dkms", "nvidia-current-open", "Dual MIT/GPL"),
    ):
        found.append(
            Package(
                name,
                version,
                f"NVIDIA kernel module DKMS source ({licence})",
                source="nvidia-graphics-drivers",
                section="non-free/kernel",
                relations={
                    "Depends": f"dkms, nvidia-kernel-support (= {version})",
                    "Provides": f"nvidia-kernel (= {version})",
                    "Conflicts": f"{other}, nvidia-kernel-open-dkms",
                    "Replaces": f"{other}, nvidia-kernel-open-dkms",
                },
                payload=dict(driver.module_sources(module, DEBIAN_DRIVER, licence)),
                scripts=scripts.dkms(module, DEBIAN_DRIVER),
            )
        )
    found.append(
        Package("nvidia-kernel-support", version, "NVIDIA kernel module support files",
                source="nvidia-graphics-drivers",
                relations={"Depends": f"nvidia-modprobe (= {version})"})
    )  # fmt: skip
    exactly = f"(= {version})"
    return [
        *found,
        Package(
            "nvidia-driver",
            version,
            "NVIDIA metapackage",
            source="nvidia-graphics-drivers",
            section="non-free/x11",
            relations={
                "Depends": f"nvidia-kernel-dkms {exactly} | nvidia-open-kernel-dkms {exactly}, "
                f"libcuda1 {exactly}, nvidia-smi {exactly}, nvidia-persistenced {exactly}"
            },
        ),
    ]
