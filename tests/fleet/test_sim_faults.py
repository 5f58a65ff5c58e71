"""Every fault of the simulated fleet shows on the node and heals; wrong ones are refused."""

from __future__ import annotations

import pytest

from tests.fleet import test_verify_faults as checks
from tests.fleet import test_verify_reports as reports
from tests.fleet.live import LiveFleet, sim
from tests.fleet.test_sim import CPU, H100, L40S, install
from tests.sim import faults

SHOWN = {
    "dpkg-interrupted": ("apt-get -y install hello", "dpkg was interrupted"),
    "apt-locked:600": ("apt-get -y install hello", "held by process"),
    "next-kernel": ("ls /lib/modules", "+next"),
    "foreign-dgx": ("cat /etc/dgx-release", "NVIDIA DGX Server"),
    "foreign-runfile": ("ls /usr/bin/nvidia-uninstall; modinfo -F version nvidia", "570.133.20"),
    "foreign-container": ("cat /run/nvidia/driver/.version; lsmod", "nvidia_uvm"),
    "foreign-vfio:1": ("lspci -k -s 2a:00.0", "vfio-pci"),
    "gpu-lost:1": ("lspci -s 2a:00.0", "(rev ff)"),
    "vgpu": ("systemctl show -p ActiveState nvidia-gridd", "=active"),
    "nvml:1:remap_pending=1": ("cat /run/sim/nvml/1/remap_pending", "1"),
    "nvml-hang:9": ("cat /run/sim/nvml/hang_s", "9"),
    "xid:0:48": ("journalctl -k -o json", "double bit error"),
    "secure-boot": ("od -An -tx1 /sys/firmware/efi/efivars/SecureBoot-*", "06 00 00 00 01"),
    "slurm-busy:77": ("squeue -h -o '%i %u'", "77 trainer"),
    "disk-full": (
        "rm -f /var/cache/apt/archives/*.deb; apt-get -y --reinstall install hello",
        "enough free space",
    ),
    "readonly": ("touch /etc/x", "Read-only file system"),
    "login-noise": ("su - ops -c 'bash -c true; cat ~/.bashrc'", "Welcome"),
    "login-flood": ("cat /home/ops/.bashrc", "flood"),
    "hostile-os-release": ("cat /etc/os-release", "touch /tmp/owned"),
    "slow-ssh:1": ("cat /etc/ssh/sshrc", "sleep 1"),
    "dkms-slow:5": ("cat /etc/sim/faults/dkms-slow", "5"),
}
"""A command that shows each fault, and what it then says and must not say after healing."""

BY_OWN_TEST = {
    *("busy", "held-package", "mig", "dkms-fails", "unreachable", "nouveau", "no-self-name"),
    "train",  # test_verify_training
    "fabric-version",  # test_verify_reports
    "rma-tools",  # test_evidence
    "soak-short",  # test_deep
}
VERIFIED = {*reports.SEEN, *reports.ALONE, *(row.fault for row in checks.MATRIX)}


def test_every_fault_is_tested() -> None:
    tested = {fault.partition(":")[0] for fault in {*SHOWN, *VERIFIED}} | BY_OWN_TEST
    assert tested == set(faults.kinds())


@pytest.mark.parametrize("fault", SHOWN)
def test_a_fault_shows_and_heals(fleet: LiveFleet, fault: str) -> None:
    ask, expected = SHOWN[fault]

    def shown() -> str:
        result = fleet.root(L40S, ask)
        return result.out + result.err

    assert expected not in shown()
    with fleet.broken(L40S, fault):
        assert expected in shown()
        assert fleet.status()["nodes"][L40S]["faults"] != []
    assert expected not in shown()
    assert fleet.status()["nodes"][L40S]["faults"] == []


def test_faults_of_an_installed_driver(pristine: LiveFleet) -> None:
    with pristine.broken(H100, "dkms-fails"), pytest.raises(AssertionError, match="dkms"):
        install(pristine, H100, "nvidia-kernel-open-dkms")
    assert "Error" in pristine.root(H100, "cat /var/lib/dkms/nvidia/*/build/make.log").ok()
    install(pristine, H100, "nvidia-kernel-open-dkms", "nvidia-driver-cuda")
    pristine.root(H100, "modprobe nvidia").ok()
    with pristine.broken(H100, "busy:2"):
        holder = pristine.root(H100, "ls -l /proc/[0-9]*/fd | grep 'trainer.*/dev/nvidia2'")
        assert holder.status == 0
        asked = "nvidia-smi --query-compute-apps=used_memory --format=csv,noheader"
        assert "40960" in pristine.ssh(H100, asked).ok()
    with pristine.broken(H100, "held-package"):
        assert pristine.ssh(H100, "apt-mark showhold").ok() == "libnvidia-ml1\n"
    with pristine.broken(H100, "mig:3"):
        asked = "nvidia-smi --query-gpu=mig.mode.current --format=csv,noheader"
        assert pristine.ssh(H100, asked).ok().splitlines().count("Enabled") == 1
        pristine.reboot(H100)
        instances = "ls -d /proc/driver/nvidia/capabilities/gpu*/mig/gi*"
        assert pristine.ssh(H100, instances).ok().count("/gpu3/") == 1
    assert pristine.ssh(H100, instances).status != 0


def test_an_unreachable_node_stays_so_over_a_reboot(fleet: LiveFleet) -> None:
    with fleet.broken(CPU, "unreachable"):
        assert fleet.ssh(CPU, "true").status == 255
        fleet.root(CPU, "systemctl reboot")
        assert fleet.ssh(CPU, "true").status == 255
    fleet.ssh(CPU, "true").ok()


def test_a_host_without_its_own_name(fleet: LiveFleet) -> None:
    with fleet.broken(CPU, "no-self-name"):
        assert fleet.ssh(CPU, "getent hosts $(hostname)").status != 0
    fleet.ssh(CPU, "getent hosts $(hostname)").ok()


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("fault", H100, "nuveau"), "nouveau"),
        (("fault", "h100-99", "nouveau"), H100),
        (("fault", H100, "nvml:0:bogus=1"), "remap_pending"),
        (("fault", H100, "foreign-dgx:x;y"), "none"),
        (("fault", H100, "gpu-lost:8"), "8"),
        (("fault", CPU, "busy"), "driver"),
        (("restore", "h100-99"), H100),
    ],
)
def test_wrong_arguments_name_the_right_ones(
    fleet: LiveFleet, arguments: tuple[str, ...], named: str
) -> None:
    refused = sim(arguments[0], "--fleet", fleet.name, *arguments[1:])
    assert refused.status == 2
    assert named in refused.err
    assert [fleet.status()["nodes"][node]["faults"] for node in (H100, CPU)] == [[], []]
