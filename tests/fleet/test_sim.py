"""The simulated fleet itself: its nodes are real where it matters, and its hardware convinces."""

from __future__ import annotations

import pytest

from tests.fleet.live import LiveFleet, sim
from tests.sim import profiles

H100, L40S, V100, CPU = "h100-01", "l40s-01", "v100-01", "cpu-01"
EVERY = (H100, L40S, V100, CPU)

INSTALL = """
set -e
export DEBIAN_FRONTEND=noninteractive
install -d /etc/apt/keyrings
curl -fsS {url}/3bf863cc.pub > /etc/apt/keyrings/vendor.asc
echo 'deb [signed-by=/etc/apt/keyrings/vendor.asc] {url}/ ./' > /etc/apt/sources.list.d/vendor.list
apt-get -q update
apt-get -q -y install nvidia-driver-pinning-580
apt-get -q -y install linux-headers-$(uname -r) {packages}
"""


def install(fleet: LiveFleet, node: str, *packages: str) -> None:
    """Install packages of the vendor on a node by hand."""
    script = INSTALL.format(url=fleet.vendor_url, packages=" ".join(packages))
    fleet.root(node, script, timeout=300).ok()


# Nodes


@pytest.mark.parametrize("node", EVERY)
def test_login_by_key_with_sudo_and_a_plain_user_without(fleet: LiveFleet, node: str) -> None:
    assert fleet.ssh(node, "id -un; hostname; sudo -n id -un").ok().split() == ["ops", node, "root"]
    assert fleet.root(node, "su trainer -c 'sudo -n true'").status != 0
    state = fleet.root(node, "systemctl is-system-running; systemctl --failed --plain").out
    assert state.startswith("running"), state


def test_a_changed_host_key_is_refused(pristine: LiveFleet) -> None:
    renew = "rm /etc/ssh/ssh_host_*; ssh-keygen -qt ed25519 -N '' -f /etc/ssh/ssh_host_ed25519_key"
    pristine.root(CPU, f"{renew}; systemctl restart ssh").ok()
    refused = pristine.ssh(CPU, "true")
    assert refused.status == 255
    assert "REMOTE HOST IDENTIFICATION HAS CHANGED" in refused.err
    pristine.restore(CPU)
    pristine.ssh(CPU, "true").ok()


def test_nodes_resolve_and_reach_each_other(fleet: LiveFleet) -> None:
    for node in EVERY:
        names = fleet.ssh(
            node, "getent ahostsv4 " + " ".join(EVERY) + " | awk '/STREAM/{print $1}'"
        )
        assert names.ok().split() == [fleet.nodes[n] for n in EVERY]
    fleet.ssh(H100, f"ping -c 1 -W 2 {V100}").ok()


def test_nodes_differ_in_identity(fleet: LiveFleet) -> None:
    seen = [fleet.ssh(n, "cat /etc/machine-id").ok() for n in EVERY]
    seen += [fleet.ssh(n, "cat /etc/ssh/ssh_host_ed25519_key.pub").ok() for n in EVERY]
    seen += [fleet.boot_id(n) for n in EVERY]
    assert len(set(seen)) == 3 * len(EVERY)


def test_nodes_share_no_cgroup(fleet: LiveFleet) -> None:
    """A service stopped on one node must not be able to reach another node's processes."""
    for node in (H100, V100):
        fleet.root(node, "systemd-run --quiet --unit=probe sleep 60").ok()
    fleet.root(H100, "systemctl stop probe").ok()
    assert fleet.root(V100, "systemctl is-active probe").ok().strip() == "active"


def test_apt_reaches_debian_and_the_kernel_is_a_package(fleet: LiveFleet) -> None:
    planned = fleet.ssh(CPU, "apt-get -s install python3-dev").ok()
    assert "Inst python3-dev" in planned
    assert "Debian" in planned
    fleet.root(CPU, "apt-get -q update && apt-get -q -y install hello && hello").ok()
    assert fleet.ssh(CPU, "dpkg -S /boot/vmlinuz-$(uname -r)").ok().startswith("linux-image-")
    assert (
        "Inst linux-headers-" in fleet.ssh(CPU, "apt-get -s install linux-headers-$(uname -r)").ok()
    )


def test_the_vendors_repository_is_signed_and_not_configured(fleet: LiveFleet) -> None:
    known = fleet.ssh(H100, "apt-cache policy nvidia-kernel-open-dkms cuda-toolkit-13-0").ok()
    assert "http" not in known
    shown = fleet.ssh(H100, f"curl -fsS {fleet.vendor_url}/InRelease").ok()
    assert "-----BEGIN PGP SIGNATURE-----" in shown


# State


def test_a_reboot_gives_a_new_boot_id_and_keeps_files(fleet: LiveFleet) -> None:
    fleet.ssh(L40S, "echo kept > ~/file").ok()
    before = fleet.boot_id(L40S)
    assert fleet.reboot(L40S) != before
    assert fleet.ssh(L40S, "cat ~/file").ok() == "kept\n"
    assert fleet.ssh(L40S, "sudo journalctl --list-boots -q | wc -l").ok().strip() == "2"


def test_a_powered_off_node_is_off_until_up(fleet: LiveFleet) -> None:
    fleet.ssh(L40S, "echo kept > ~/off; sudo systemctl poweroff")
    for _ in range(100):
        if (state := fleet.status()["nodes"][L40S]["state"]) == "off":
            break
    assert state == "off"
    sim("up", "--fleet", fleet.name).ok()
    assert fleet.ssh(L40S, "cat ~/off").ok() == "kept\n"


def test_restore_gives_a_pristine_node(fleet: LiveFleet) -> None:
    before = fleet.ssh(V100, "dpkg -l | md5sum; ls -A ~ /etc /opt | md5sum").ok()
    fleet.root(V100, "touch /etc/new /opt/new; rm /etc/profile; apt-get -q -y install hello").ok()
    fleet.restore(V100)
    assert fleet.ssh(V100, "dpkg -l | md5sum; ls -A ~ /etc /opt | md5sum").ok() == before
    assert fleet.ssh(V100, "sudo journalctl --list-boots -q | wc -l").ok().strip() == "1"


# Hardware


@pytest.mark.parametrize(
    ("node", "kind"), [(H100, "hgx-h100"), (L40S, "l40s"), (V100, "v100"), (CPU, "none")]
)
def test_hardware_appears_on_the_pci_bus(fleet: LiveFleet, node: str, kind: str) -> None:
    listed = (
        fleet.ssh(node, "cd /sys/bus/pci/devices && cat */vendor */device */class").ok().split()
    )
    hardware = profiles.HARDWARE[kind]
    assert listed.count("0x030200") == hardware.gpus
    assert listed.count("0x068000") == hardware.nvswitches == listed.count("0x22a3")
    assert listed.count("0x030000") == 1  # the management controller's VGA, in every server
    if hardware.gpu is not None:
        assert listed.count(hardware.gpu.device) == hardware.gpus
        assert hardware.gpu.device[2:] in fleet.ssh(node, "lspci -nn -d 10de:").ok()


def test_the_driver_installs_loads_and_is_held(pristine: LiveFleet) -> None:
    install(pristine, H100, "nvidia-kernel-open-dkms", "nvidia-driver-cuda")
    assert pristine.ssh(H100, "ls /sys/module").ok() == ""
    assert "no" in pristine.ssh(H100, "test -e /dev/nvidia0 || echo no").ok()
    pristine.root(H100, "modprobe nvidia").ok()
    assert pristine.ssh(H100, "cat /sys/module/nvidia/version").ok().startswith("580.178.04")
    assert "Open Kernel Module" in pristine.ssh(H100, "cat /proc/driver/nvidia/version").ok()
    assert len(pristine.ssh(H100, "nvidia-smi -L").ok().splitlines()) == 8
    assert "Kernel driver in use: nvidia" in pristine.ssh(H100, "lspci -k -s 1a:00.0").ok()
    busy = pristine.root(H100, "exec 9</dev/nvidia3; rmmod nvidia_uvm nvidia_modeset nvidia")
    assert "rmmod: ERROR: Module nvidia is in use" in busy.err
    pristine.root(H100, "systemctl stop nvidia-persistenced; rmmod nvidia").ok()
    assert pristine.ssh(H100, "ls /sys/module /proc/driver; ls /dev/nvidia*").status != 0
    pristine.reboot(H100)
    assert "nvidia_uvm" in pristine.ssh(H100, "lsmod").ok()
    assert "active" in pristine.ssh(H100, "systemctl is-active nvidia-persistenced").ok()


def test_a_module_that_does_not_fit_is_refused(pristine: LiveFleet) -> None:
    missing = pristine.root(V100, "modprobe nvidia")
    assert "FATAL: Module nvidia not found in directory /lib/modules/" in missing.err
    install(pristine, V100, "nvidia-kernel-open-dkms")
    refused = pristine.root(V100, "modprobe nvidia")
    assert refused.status == 1
    assert "could not insert 'nvidia': No such device" in refused.err
    log = pristine.ssh(V100, "sudo journalctl -k -o cat").ok()
    assert "does not include the required GPU System Processor" in log
    install(pristine, V100, "nvidia-kernel-dkms", "nvidia-driver-cuda")
    pristine.root(V100, "modprobe nvidia").ok()
    install(pristine, CPU, "nvidia-kernel-dkms")
    assert "No such device" in pristine.root(CPU, "modprobe nvidia").err


def test_nouveau_comes_back_until_both_places_blacklist_it(pristine: LiveFleet) -> None:
    pristine.fault(L40S, "nouveau")
    held = pristine.root(L40S, "rmmod nouveau")
    assert "Module nouveau is in use" in held.err
    pristine.root(L40S, "echo 'blacklist nouveau' > /etc/modprobe.d/off.conf").ok()
    pristine.reboot(L40S)
    assert "nouveau" in pristine.ssh(L40S, "lsmod").ok()
    pristine.root(L40S, "update-initramfs -u").ok()
    pristine.reboot(L40S)
    assert "nouveau" not in pristine.ssh(L40S, "lsmod").ok()
    pristine.heal(L40S)
