"""The vendor's packages in real dpkg transactions, on nodes that have the simulated hardware."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from tests.fleet.live import LiveFleet

H100, L40S, V100, CPU = "h100-01", "l40s-01", "v100-01", "cpu-01"
DRIVER = "nvidia-driver-cuda nvidia-kernel-open-dkms"
APT = "DEBIAN_FRONTEND=noninteractive apt-get -q -y --no-install-recommends"

PREPARE = """
curl -fsS {url}/3bf863cc.pub > /usr/share/keyrings/vendor.asc
echo 'deb [signed-by=/usr/share/keyrings/vendor.asc] {url}/ /' > /etc/apt/sources.list.d/vendor.list
apt-get -q update
"""


class Sh:
    """A root shell on a node; called with a script it returns the output of its success."""

    def __init__(self, fleet: LiveFleet, node: str) -> None:
        self.fleet, self.node = fleet, node

    def __call__(self, script: str) -> str:
        return self.fleet.root(self.node, f"set -e\n{script}").ok()

    def refused(self, script: str) -> str:
        """What a script that must fail says."""
        done = self.fleet.root(self.node, f"set -e\n{script}")
        assert done.status != 0, done.out
        return done.out + done.err


@pytest.fixture
def shell(fleet: LiveFleet) -> Callable[..., Sh]:
    """A root shell on a restored node that knows the vendor's repository and its own headers."""

    def on(node: str, headers: bool = True) -> Sh:
        fleet.restore(node)
        sh = Sh(fleet, node)
        sh(PREPARE.format(url=fleet.vendor_url))
        if headers:
            sh(f"{APT} install linux-headers-$(uname -r)")
        return sh

    return on


def installed(sh: Sh) -> dict[str, str]:
    """Packages of the vendor's names that are installed, with versions."""
    listed = sh(
        "dpkg-query -W -f '${db:Status-Abbrev} ${Package} ${Version}\\n' "
        "'*nvidia*' '*cuda*' 'dkms' 2>/dev/null || true"
    )
    rows = (line.split() for line in listed.splitlines())
    return {row[1]: row[2] for row in rows if row[0] == "ii"}


def modinfo(sh: Sh, field: str) -> str:
    """A field of the installed module."""
    return sh(f"modinfo -F {field} nvidia").strip()


def reload_module(sh: Sh) -> None:
    """Unload whatever is loaded and load what is installed."""
    sh(
        "systemctl stop nvidia-persistenced 2>/dev/null || true\n"
        "rmmod nvidia_uvm nvidia_modeset nvidia 2>/dev/null || true\nmodprobe nvidia"
    )


def test_an_installation_loads_nothing_by_itself(shell) -> None:
    sh = shell(L40S)
    said = sh(f"{APT} install nvidia-driver-pinning-580 >/dev/null; {APT} install {DRIVER}")
    assert "Building initial module for" in said
    assert modinfo(sh, "version") == "580.178.04"
    assert modinfo(sh, "license") == "Dual MIT/GPL"
    assert sh("dkms status").strip().endswith("installed")
    assert "couldn't communicate with the NVIDIA driver" in sh("nvidia-smi || test $? = 9")
    assert sh("systemctl is-active nvidia-persistenced || true").strip() == "failed"
    sh("modprobe nvidia; systemctl start nvidia-persistenced")
    query = "nvidia-smi --query-gpu=driver_version,persistence_mode --format=csv,noheader"
    assert sh(query).splitlines() == ["580.178.04, Enabled"] * 2
    assert "is in use" in sh.refused("rmmod nvidia_uvm nvidia_modeset nvidia")


def test_versions_and_branches_go_up_and_down(shell) -> None:
    sh = shell(L40S)
    sh(f"{APT} install nvidia-driver-pinning-580.159.04 >/dev/null; {APT} install {DRIVER}")
    assert installed(sh)["libcuda1"] == "580.159.04-1"
    reload_module(sh)
    sh(f"{APT} install nvidia-driver-pinning-580 >/dev/null; {APT} install {DRIVER}")
    assert installed(sh)["libcuda1"] == modinfo(sh, "version") + "-1" == "580.178.04-1"
    said = sh("nvidia-smi || test $? = 18")
    assert "Driver/library version mismatch" in said
    assert sh("cat /sys/module/nvidia/version").strip() == "580.159.04", "still loaded"
    reload_module(sh)
    assert "580.178.04" in sh("nvidia-smi")
    sh(f"{APT} install nvidia-driver-pinning-595 >/dev/null; {APT} install {DRIVER}")
    assert modinfo(sh, "version") == "595.91.07"
    # and all the way back, in one transaction
    sh(f"{APT} install nvidia-driver-pinning-580.159.04 >/dev/null")
    assert "without --allow-downgrades" in sh.refused(f"{APT} install {DRIVER}")
    sh(f"{APT} --allow-downgrades install {DRIVER}")
    versions = {v for name, v in installed(sh).items() if "pinning" not in name and name != "dkms"}
    assert versions == {"580.159.04-1"}
    assert sh("ls /usr/src | grep nvidia-").split() == ["nvidia-580.159.04"]
    assert sh("dpkg --audit") == ""


def test_the_flavours_replace_each_other(shell) -> None:
    sh = shell(V100)
    sh(f"{APT} install nvidia-driver-pinning-580 >/dev/null; {APT} install {DRIVER}")
    assert "No such device" in sh.refused("modprobe nvidia"), "no open module on Volta"
    sh(f"{APT} install nvidia-kernel-dkms")
    assert modinfo(sh, "license") == "NVIDIA"
    assert "nvidia-kernel-open-dkms" not in installed(sh)
    reload_module(sh)
    assert sh("nvidia-smi -L").count("V100") == 4
    sh(f"{APT} install nvidia-kernel-open-dkms")
    assert modinfo(sh, "license") == "Dual MIT/GPL"


def test_a_pin_wins_only_when_it_came_before_and_outlives_its_package(shell) -> None:
    sh = shell(L40S)
    plan = f"{APT} -s install {DRIVER} | grep '^Inst nvidia-driver-cuda'"
    assert "(595.91.07-1 " in sh(plan)
    together = f"{APT} -s install nvidia-driver-pinning-580 {DRIVER} | grep '^Inst nvidia-driver-c'"
    assert "(595.91.07-1 " in sh(together), "apt decides before the pin exists"
    sh(f"{APT} install nvidia-driver-pinning-580")
    assert "(580.178.04-1 " in sh(plan)
    sh(f"{APT} install nvidia-driver-pinning-595")
    assert "(595.91.07-1 " in sh(plan)
    assert "nvidia-driver-pinning-580" not in installed(sh)
    sh(f"{APT} install nvidia-driver-pinning-580; {APT} remove nvidia-driver-pinning-580")
    assert "(580.178.04-1 " in sh(plan), "a removed package leaves its conffile"
    sh(f"{APT} purge nvidia-driver-pinning-580")
    assert "(595.91.07-1 " in sh(plan)


def test_the_fabric_manager_fits_or_refuses(shell) -> None:
    sh = shell(H100)
    sh(f"{APT} install nvidia-driver-pinning-580 >/dev/null")
    sh(f"{APT} install {DRIVER} nvidia-fabricmanager=580.159.04-1 datacenter-gpu-manager-4-cuda13")
    sh("modprobe nvidia")
    state = "nvidia-smi --query-gpu=fabric.state --format=csv,noheader | sort -u"
    assert "failed" in sh.refused("systemctl start nvidia-fabricmanager")
    journal = sh("journalctl -u nvidia-fabricmanager -o cat --no-pager")
    assert "version 580.159.04 don't match with driver version 580.178.04" in journal
    assert sh(state).strip() == "In Progress"
    sh(f"{APT} install nvidia-fabricmanager; systemctl start nvidia-fabricmanager")
    assert sh(state).strip() == "Completed"
    sh("systemctl kill -s KILL nvidia-fabricmanager; sleep 0.3")
    assert sh(state).strip() == "In Progress", "a crash leaves no completed fabric"
    sh("systemctl restart nvidia-fabricmanager nvidia-dcgm")
    assert "is in use" in sh.refused("rmmod nvidia_uvm nvidia_modeset nvidia")
    sh("systemctl stop nvidia-fabricmanager nvidia-dcgm nvidia-persistenced")
    assert sh(state).strip() == "In Progress"
    sh("rmmod nvidia_uvm nvidia_modeset 2>/dev/null || true; rmmod nvidia")


def test_the_fabric_manager_has_nothing_to_do_without_switches(shell) -> None:
    sh = shell(L40S)
    sh(f"{APT} install nvidia-driver-pinning-580 >/dev/null")
    sh(f"{APT} install {DRIVER} nvidia-fabricmanager; modprobe nvidia")
    sh.refused("systemctl start nvidia-fabricmanager")
    assert "NV_WARN_NOTHING_TO_DO" in sh("journalctl -u nvidia-fabricmanager -o cat --no-pager")


def test_without_headers_nothing_is_built_until_they_come(shell) -> None:
    sh = shell(L40S, headers=False)
    said = sh(f"{APT} install {DRIVER}")
    assert "kernel headers for this kernel do not seem to be installed" in said
    assert "not found" in sh.refused("modprobe nvidia")
    assert "Installing to /lib/modules" in sh(f"{APT} install linux-headers-$(uname -r)")
    sh("modprobe nvidia")


def test_a_failing_compile_breaks_the_transaction_and_can_be_finished(fleet, shell) -> None:
    sh = shell(L40S)
    fleet.fault(L40S, "dkms-fails")
    said = sh.refused(f"{APT} install {DRIVER}")
    assert "installed nvidia-kernel-open-dkms package post-installation script" in said
    log = sh("cat /var/lib/dkms/nvidia/*/build/make.log")
    assert "error: implicit declaration" in log
    assert sh("dpkg --audit") != ""
    fleet.heal(L40S, "dkms-fails")
    sh("dpkg --configure -a; modprobe nvidia")
    assert sh("dpkg --audit") == ""


def test_toolkits_share_one_link(shell) -> None:
    sh = shell(CPU, headers=False)
    sh(f"{APT} install cuda-toolkit-12-9 cuda-toolkit-13-0")
    assert "release 13.0, V13.0.88" in sh("/usr/local/cuda/bin/nvcc --version")
    assert "V12.9.86" in sh("/usr/local/cuda-12/bin/nvcc --version")
    assert json.loads(sh("cat /usr/local/cuda/version.json"))["cuda"]["version"] == "13.0.2"
    assert "libcudart.so.13 " in sh("ldconfig -p")
    sh("update-alternatives --set cuda /usr/local/cuda-12.9")
    assert "V12.9.86" in sh("/usr/local/cuda/bin/nvcc --version")
    sh(f"{APT} autoremove cuda-toolkit-12-9 cuda-nvcc-12-9")
    assert "V13.0.88" in sh("/usr/local/cuda/bin/nvcc --version")
    assert sh("ls -d /usr/local/cuda-1*").split() == ["/usr/local/cuda-13", "/usr/local/cuda-13.0"]


def test_libraries_can_be_loaded_and_asked(shell) -> None:
    sh = shell(CPU, headers=False)
    cudnn = " ".join(f"libcudnn9{kind}-cuda-13=9.20.0.48-1" for kind in ("", "-dev", "-headers"))
    sh(f"{APT} install {cudnn} libcudnn9-cuda-12=9.10.2.21-1 libnccl2=2.29.7-1+cuda13.0")
    asked = sh(
        "python3 -c 'import ctypes as c; n = c.c_int(); "
        'c.CDLL("libnccl.so.2").ncclGetVersion(c.byref(n)); '
        'print(n.value, c.CDLL("libcudnn.so.9").cudnnGetVersion())\''
    )
    assert asked.split() == ["22907", "92000"]
    assert "CUDNN_MINOR 20" in sh("cat /usr/include/cudnn_version.h")


def test_debians_own_driver_gives_way_to_the_vendors(shell) -> None:
    sh = shell(L40S)
    names = (
        *("nvidia-driver", "nvidia-smi", "libcuda1", "libnvidia-ml1", "libnvidia-ptxjitcompiler1"),
        *("nvidia-persistenced", "nvidia-kernel-dkms", "nvidia-kernel-support", "nvidia-modprobe"),
    )
    sh(f"{APT} install {' '.join(f'{name}=535.247.01-1~deb12u1' for name in names)}")
    assert sh("dkms status").startswith("nvidia-current/535.247.01, ")
    assert modinfo(sh, "version") == "535.247.01"
    sh(f"{APT} install nvidia-driver-pinning-580 >/dev/null; {APT} install {DRIVER}")
    assert sh("dkms status").startswith("nvidia/580.178.04, ")
    assert modinfo(sh, "version") == "580.178.04"
    assert not [v for v in installed(sh).values() if v.startswith("535")]
