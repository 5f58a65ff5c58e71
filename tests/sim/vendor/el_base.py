"""What an Enterprise Linux host would get from its own repositories, as names.

The hosts are Debian underneath, which brings compilers, Python, systemd and the rest: these
packages carry nothing but their names, so that rpm and dnf know of them. Real contents have only
- `dkms`, the stand-in that the Debian hosts have, in EPEL as for real;
- `kernel-devel-<release>` and `kernel-core-<release>`, of the machine's kernel and a second one.
  The machine's release is no version that rpm accepts, so it is part of these packages' names;
- `epel-release`, which configures EPEL.
"""

from __future__ import annotations

from . import debian
from .packages import Link, Payload, Text, text_file
from .rpm import Rpm

KEY_NAME = "RPM-GPG-KEY-simulated"
"""Of the system's own repositories; the vendor's have another."""
RELEASE = "9.6"
INSTALLED = (
    *("rocky-release", "bash", "ca-certificates", "coreutils", "dnf", "glibc", "kmod"),
    *("kernel-headers", "openssh-server", "pciutils", "python3", "rpm", "sudo", "systemd"),
)
"""On a fresh host, beside its kernel and epel-release."""
OFFERED = ("gcc", "gcc-c++", "make", "infiniband-diags", "libibumad")

_EPEL = f"""\
[epel]
name=Extra Packages for Enterprise Linux 9 (simulated)
baseurl=http://$simhost/epel9
enabled=1
gpgcheck=1
gpgkey=file:///etc/pki/rpm-gpg/{KEY_NAME}
"""


def packages(kernel_release: str) -> list[Rpm]:
    """BaseOS, AppStream and extras in one repository."""
    found = [_release()]
    found += [_named(name) for name in (*INSTALLED[1:], *OFFERED)]
    # The nodes' Python is that of the Debian below them: on EL 9 a second one beside its own.
    headers = {"/usr/include/python3.11/Python.h": Text("/* simulated Python headers */\n")}
    found += [_named("python3-devel"), _named("python3.11-devel", headers)]
    found.append(_named("epel-release", {"/etc/yum.repos.d/epel.repo": Text(_EPEL)}))
    for release in (kernel_release, debian.next_release(kernel_release)):
        found += kernel(release)
    return found


def epel() -> list[Rpm]:
    """What EPEL has: dkms."""
    hook = text_file("dkms-kernel-hook", 0o755)
    return [
        Rpm(
            "dkms",
            "3.0.10",
            "1.el9",
            "Dynamic Kernel Module System (DKMS)",
            arch="noarch",
            requires=("kmod", "gcc", "make"),
            payload={"/usr/sbin/dkms": text_file("dkms", 0o755),
                     "/etc/kernel/postinst.d/dkms": hook},
        )
    ]  # fmt: skip


def kernel(release: str) -> list[Rpm]:
    """A kernel in name, and headers that a module can be compiled against."""
    sources = f"/usr/src/kernels/{release}"
    boot = f"/boot/vmlinuz-{release}"
    hooks = f'for one in /etc/kernel/postinst.d/*; do [ ! -x "$one" ] || "$one" {release}; done\n'
    return [
        Rpm(
            f"kernel-core-{release}",
            "1.0",
            "1.el9",
            f"Linux {release}",
            provides=("kernel-core", "kernel"),
            payload={
                boot: Text("simulated kernel image\n"),
                f"/boot/loader/entries/simulated-{release}.conf": Text(
                    f"title Rocky Linux ({release})\nversion {release}\n"
                    f"linux /vmlinuz-{release}\ninitrd /initramfs-{release}.img\n"
                ),
                f"/lib/modules/{release}/modules.order": Text(""),
                f"/lib/modules/{release}/modules.builtin": Text(""),
            },
            post=f"depmod {release} || :\n{hooks}:\n",
        ),
        Rpm(
            f"kernel-devel-{release}",
            "1.0",
            "1.el9",
            f"Development files of Linux {release}",
            provides=("kernel-devel",),
            payload={
                f"{sources}/include/generated/utsrelease.h": Text(
                    f'#define UTS_RELEASE "{release}"\n'
                ),
                f"{sources}/Makefile": Text("# simulated kernel headers\n"),
                f"/lib/modules/{release}/build": Link(sources),
            },
        ),
    ]


def _release() -> Rpm:
    """Tells dnf which release this is."""
    return Rpm(
        "rocky-release",
        RELEASE,
        "1.el9",
        "Rocky Linux release files",
        arch="noarch",
        provides=(f"system-release = {RELEASE}", "system-release(releasever) = 9"),
    )


def _named(name: str, payload: dict[str, Payload] | None = None) -> Rpm:
    return Rpm(
        name,
        "1.0",
        "1.el9",
        f"{name}, a name only",
        arch="noarch",
        provides=("/bin/sh", "/usr/bin/sh") if name == "bash" else (),
        payload=payload or {},
    )
