"""A fleet of real Debian hosts whose GPUs are simulated: `python -m tests.sim up`.

Real: systemd, sshd, sudo, apt, dpkg, signed repositories, services, reboots, own addresses.
Simulated: PCI devices, kernel modules, NVML and the contents of the vendor's packages.
Nodes are systemd-nspawn containers on overlayfs; they share the machine's kernel. Some are labelled
as another distribution (`systems.py`), with its package tools and names; underneath all are Debian.
"""

from tests.sim.vendor import PACKAGES as _VENDOR_PACKAGES

PACKAGES = sorted(
    {
        *("debootstrap", "debian-archive-keyring", "systemd-container", "iptables", "iproute2"),
        *("util-linux", "openssh-client", "openssh-server", *_VENDOR_PACKAGES),
    }
)
"""Debian packages that the machine needs to run a simulated fleet, and the offline tests' own sshd
(set-up installs them)."""
