"""Layers that only some hosts have: DCGM, container toolkit, IMEX, NVLink 5 and RDMA, as tables."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest

from deploy.apt import transaction
from deploy.facts import NodeFacts, Package, PciDevice, Service
from deploy.fleet.spec import NodeSpec
from deploy.layers import container_toolkit, fabric, rdma
from deploy.packages import difference
from deploy.plan import HostPlan, plan_host
from deploy.probing.rdma_facts import Peermem, Rdma, read_cdi, read_rdma
from deploy.removal import ours
from deploy.stack import Component, PackagePin
from deploy.steps import Wanted
from tests.conformed import conform, conformed
from tests.factory import KERNEL, facts, solve, solved

NEW = "580.178.04"


def wanted(hardware: str = "hgx-h100", **spec: Any) -> Wanted:
    return Wanted(host="h1", spec=NodeSpec(**spec), stack=solved(hardware, **spec))


def component(version: str, **packages: str) -> Component:
    pins = {
        name.replace("_", "-"): PackagePin(version=full, size=0) for name, full in packages.items()
    }
    return Component(version=version, packages=pins)


def titles(plan: HostPlan) -> list[str]:
    assert plan.blocked is None, plan.blocked
    return [step.title for step in plan.steps]


def with_packages(host: NodeFacts, **versions: str) -> NodeFacts:
    assert host.packages is not None
    mine = {
        name.replace("_", "-"): Package(version=full, state="ii", held=False)
        for name, full in versions.items()
    }
    return host.model_copy(update={"packages": {**host.packages, **mine}})


def with_service(host: NodeFacts, unit: str, **changes: str) -> NodeFacts:
    assert host.services is not None
    values = {"load": "loaded", "active": "active", "enabled": "enabled", **changes}
    return host.model_copy(update={"services": {**host.services, unit: Service(**values)}})


class TestDcgm:
    def test_version_3_is_named_and_goes(self) -> None:
        wish = wanted(dcgm="latest")
        host = with_packages(conformed(wanted(), "hgx-h100"), datacenter_gpu_manager="1:3.3.9")
        plan = plan_host(wish, host)
        step = plan.steps[1]
        assert step.title == "DCGM 4.5.2 is installed"
        assert step.why.endswith("; datacenter-gpu-manager 1:3.3.9 (DCGM 3) goes")
        assert step.disruptive
        assert "datacenter-gpu-manager-" in step.commands[0].shell

    def test_version_3_stays_where_nobody_asked_for_4(self) -> None:
        host = with_packages(conformed(wanted(), "hgx-h100"), datacenter_gpu_manager="1:3.3.9")
        assert titles(plan_host(wanted(), host)) == []

    def test_its_service_runs(self) -> None:
        wish = wanted(dcgm="latest")
        host = conformed(wish, "hgx-h100")
        stopped = with_service(host, "nvidia-dcgm.service", active="failed")
        assert titles(plan_host(wish, stopped)) == ["nvidia-dcgm is enabled and runs"]

    def test_another_cudas_plugin_may_leave_with_the_old_core(self) -> None:
        wish = wanted(dcgm="latest")
        host = with_packages(
            conformed(wish, "hgx-h100"),
            datacenter_gpu_manager_4_core="1:4.4.0-1",
            datacenter_gpu_manager_4_cuda11="1:4.4.0-1",
        )
        plan = plan_host(wish, host)
        assert titles(plan) == ["DCGM 4.5.2 is installed", "nvidia-dcgm is enabled and runs"]
        shell = plan.steps[0].commands[0].shell
        assert "may_go=datacenter-gpu-manager-4-cuda11" in shell
        assert "systemctl stop nvidia-dcgm" in shell


class TestContainerToolkit:
    WISH = "1.18"

    def test_a_driver_that_changed_makes_the_specification_anew(self) -> None:
        wish = wanted(container_toolkit=self.WISH)
        old = conformed(wish, "hgx-h100", cdi={"/run/cdi/nvidia.yaml": "580.159.04"})
        plan = plan_host(wish, old)
        assert titles(plan) == [f"the CDI specification is of driver {NEW}"]
        assert plan.steps[0].why == "it is of driver 580.159.04"

    def test_somebody_elses_specification_is_none_of_ours(self) -> None:
        wish = wanted(container_toolkit=self.WISH)
        good = conformed(wish, "hgx-h100")
        plugin = {"/run/cdi/k8s.device-plugin.nvidia.com-gpu.json": ""}
        both = {**(good.cdi or {}), **plugin}
        assert titles(plan_host(wish, good.model_copy(update={"cdi": both}))) == []
        alone = good.model_copy(update={"cdi": plugin})
        assert titles(plan_host(wish, alone)) == [f"the CDI specification is of driver {NEW}"]

    def test_units_that_were_disabled_follow_again(self) -> None:
        wish = wanted(container_toolkit=self.WISH)
        host = conformed(wish, "hgx-h100")
        for unit, changes in (
            (container_toolkit.PATH_UNIT, {"active": "inactive"}),
            (container_toolkit.SERVICE, {"enabled": "disabled"}),
        ):
            plan = plan_host(wish, with_service(host, unit, **changes))
            assert titles(plan) == ["the CDI specification follows the driver"]

    def test_a_static_specification_is_named_and_left(self) -> None:
        wish = wanted(container_toolkit=self.WISH)
        good = conformed(wish, "hgx-h100")
        both = {**(good.cdi or {}), "/etc/cdi/nvidia.yaml": NEW}
        plan = plan_host(wish, good.model_copy(update={"cdi": both}))
        assert titles(plan) == []
        assert len(plan.warnings) == 1
        assert plan.warnings[0].startswith("/etc/cdi/nvidia.yaml lists the GPUs, too")

    def test_a_static_one_alone_is_not_enough(self) -> None:
        wish = wanted(container_toolkit=self.WISH)
        host = conformed(wish, "hgx-h100", cdi={"/etc/cdi/nvidia.yaml": NEW})
        assert titles(plan_host(wish, host)) == [f"the CDI specification is of driver {NEW}"]

    def test_a_release_without_the_units_is_told(self) -> None:
        wish = wanted(container_toolkit=self.WISH)
        old = component("1.17.8", nvidia_container_toolkit="1.17.8-1")
        stack = wish.stack.model_copy(update={"container_toolkit": old})
        wish = wish.model_copy(update={"stack": stack})
        host = with_packages(conformed(wish, "hgx-h100"))
        plan = plan_host(wish, host)
        assert titles(plan) == []
        assert "keeps no CDI specification by itself" in plan.warnings[0]


def tray(**spec: Any) -> Wanted:
    """A tray of a multi-node NVLink domain: IMEX, and no fabric manager."""
    wish = wanted("l40s", **spec)
    part = component(NEW, nvidia_imex=f"{NEW}-1")
    return wish.model_copy(update={"stack": wish.stack.model_copy(update={"imex": part})})


class TestImex:
    def test_without_a_described_domain_it_is_installed_and_not_started(self) -> None:
        wish = tray()
        plan = plan_host(wish, conformed(wanted("l40s"), "l40s"))
        assert f"IMEX {NEW} is installed" in titles(plan)
        assert not any("nvidia-imex" in title for title in titles(plan))
        assert "names no tray" in plan.warnings[0]

    def test_with_one_it_runs(self) -> None:
        wish = tray()
        host = conformed(wish, "l40s", rdma=Rdma(imex_nodes=18))
        assert titles(plan_host(wish, host)) == ["nvidia-imex is enabled and runs"]
        running = with_service(host, "nvidia-imex.service")
        plan = plan_host(wish, running)
        assert (titles(plan), plan.warnings) == ([], ())

    def test_another_version_stops_it_first_on_an_idle_host(self) -> None:
        wish = tray()
        host = with_packages(
            conformed(wish, "l40s", rdma=Rdma(imex_nodes=18)), nvidia_imex="580.159.04-1"
        )
        plan = plan_host(wish, with_service(host, "nvidia-imex.service"))
        assert titles(plan) == [f"IMEX {NEW} is installed", "nvidia-imex is enabled and runs"]
        assert plan.steps[0].disruptive
        assert "systemctl stop nvidia-imex" in plan.steps[0].commands[0].shell

    def test_a_fabric_manager_on_a_tray_is_never_started_and_named(self) -> None:
        wish = tray()
        host = conformed(wish, "l40s", rdma=Rdma(imex_nodes=18))
        host = with_service(host, "nvidia-imex.service")
        host = with_service(host, "nvidia-fabricmanager.service", active="failed")
        plan = plan_host(wish, host)
        assert titles(plan) == []
        assert "systemctl disable --now nvidia-fabricmanager" in plan.warnings[0]


def nvlink5() -> Wanted:
    wish = wanted()
    part = component(NEW, nvidia_fabricmanager=f"{NEW}-1", nvlsm="2025.10.11-1")
    return wish.model_copy(update={"stack": wish.stack.model_copy(update={"fabric": part})})


class TestNvlink5:
    def test_ib_umad_is_loaded_before_the_fabric_manager_starts(self) -> None:
        wish = nvlink5()
        steps = fabric.steps(wish, facts("hgx-h100"))
        assert [step.title for step in steps] == [
            "ib_umad is loaded at every boot",
            f"fabric manager {NEW} is installed",
            "nvidia-fabricmanager is enabled and runs",
        ]
        assert "modprobe ib_umad" in steps[0].commands[0].shell
        assert ours(fabric.UMAD, NodeSpec())

    def test_a_module_that_is_not_loaded_is(self) -> None:
        wish = nvlink5()
        host = conformed(wish, "hgx-h100")
        assert [step.title for step in fabric.steps(wish, host)] == ["ib_umad is loaded"]
        loaded = host.model_copy(update={"rdma": Rdma(loaded=("ib_umad",))})
        assert fabric.steps(wish, loaded) == []

    def test_somebody_elses_file_serves_as_well(self) -> None:
        wish = nvlink5()
        theirs = Rdma(loaded=("ib_umad",), autoload=("ib_umad",))
        host = conformed(wish, "hgx-h100", files={}, rdma=theirs)
        assert not any("ib_umad" in step.title for step in fabric.steps(wish, host))

    def test_older_switches_need_none(self) -> None:
        wish = wanted()
        assert not fabric.needs_umad(wish.stack.fabric)
        assert not any("ib_umad" in step.title for step in fabric.steps(wish, facts("hgx-h100")))


OFED = "OFED-internal-25.10-1.7.1"
OLD_SUM, SUM = "0x11111111", "0x22222222"


def stood(built: str | None, has: str, **more: Any) -> Rdma:
    one = Peermem(kernel=KERNEL, built_against=built, ofed_has=has)
    values = {"ofed": OFED, "devices": ("mlx5_0",), "loaded": ("nvidia_peermem",), **more}
    return Rdma(peermem=(one,), **values)


class TestRdma:
    @pytest.mark.parametrize(
        ("built", "why"),
        [(OLD_SUM, "it was built against another OFED"), ("", "it was built without OFED")],
    )
    def test_modules_that_do_not_fit_the_installed_ofed_are_built_again(
        self, built: str, why: str
    ) -> None:
        wish = wanted()
        host = conformed(wish, "hgx-h100", rdma=stood(built, SUM))
        plan = plan_host(wish, host)
        assert titles(plan) == [
            f"nvidia-peermem for kernel {KERNEL} fits {OFED}",
            "nvidia_peermem is loaded at every boot",
        ]
        assert plan.steps[0].why == why
        assert not plan.steps[0].disruptive
        assert "rmmod" not in plan.steps[0].commands[0].shell

    def test_modules_that_fit_are_left_alone(self) -> None:
        wish = wanted()
        host = conformed(wish, "hgx-h100", rdma=stood(SUM, SUM, autoload=("nvidia_peermem",)))
        assert titles(plan_host(wish, host)) == []

    def test_what_loading_the_driver_took_away_is_put_back(self) -> None:
        wish = wanted()
        gone = {"autoload": ("nvidia_peermem",), "loaded": ("ib_core",)}
        host = conformed(wish, "hgx-h100", rdma=stood(SUM, SUM, **gone))
        assert titles(plan_host(wish, host)) == ["nvidia_peermem is loaded"]

    def test_it_waits_for_an_ofed_that_was_not_restarted_and_that_is_said(self) -> None:
        wish = wanted()
        gone = {"autoload": ("nvidia_peermem",), "loaded": ("ib_core",), "restart": True}
        plan = plan_host(wish, conformed(wish, "hgx-h100", rdma=stood(SUM, SUM, **gone)))
        assert titles(plan) == []
        assert "are not those of OFED-internal" in plan.warnings[0]

    def test_no_ofed_no_devices_no_file(self) -> None:
        wish = wanted()
        for found in (
            Rdma(devices=("mlx5_0",)),
            stood("", "", ofed=""),
            stood(SUM, SUM, devices=()),
            stood(SUM, SUM, devices=("efa_0",)),
        ):
            assert titles(plan_host(wish, conformed(wish, "hgx-h100", rdma=found))) == []

    def test_another_kernels_modules_are_not_ours_to_mend(self) -> None:
        wish = wanted()
        other = Peermem(kernel="5.10.0-1-amd64", built_against=OLD_SUM, ofed_has=SUM)
        host = conformed(wish, "hgx-h100", rdma=Rdma(ofed=OFED, peermem=(other,)))
        assert rdma.steps(wish, host) == []

    def test_a_driver_that_changes_is_built_against_it_anyway(self) -> None:
        wish = wanted()
        host = conformed(wanted(driver="580.159.04"), "hgx-h100", rdma=stood(OLD_SUM, SUM))
        assert not any("fits" in title for title in titles(plan_host(wish, host)))

    def test_signed_modules_cannot_be_built_and_that_is_said(self) -> None:
        wish = wanted()
        assert wish.stack.driver is not None
        signed = wish.stack.driver.model_copy(update={"prebuilt": "linux-modules-x-{kernel}"})
        wish = wish.model_copy(update={"stack": wish.stack.model_copy(update={"driver": signed})})
        host = conformed(wanted(), "hgx-h100", rdma=stood("", SUM))
        assert rdma.steps(wish, host) == []
        assert "was built without it" in rdma.warnings(wish, host)[0]

    def test_checksums_that_cannot_be_read_are_no_reason_to_build_and_are_told(self) -> None:
        wish = wanted()
        host = conformed(wish, "hgx-h100", rdma=stood(None, SUM))
        plan = plan_host(wish, host)
        assert titles(plan) == []
        assert "cannot be read from its symbols" in plan.warnings[0]

    def test_the_old_module_is_named(self) -> None:
        wish = wanted()
        host = conformed(wish, "hgx-h100", rdma=Rdma(loaded=("nv_peer_mem",)))
        assert "the old nv_peer_mem is loaded" in plan_host(wish, host).warnings[0]

    def test_a_host_without_a_driver_of_ours_needs_no_such_facts(self) -> None:
        wish = wanted("none")
        host = conformed(wish, "none", rdma=None, unknown={"rdma": "hung"})
        assert titles(plan_host(wish, host)) == []
        with_driver = wanted()
        host = conformed(with_driver, "hgx-h100", rdma=None, unknown={"rdma": "hung"})
        blocked = plan_host(with_driver, host).blocked
        assert blocked is not None
        assert blocked.reason == "rdma could not be read: hung"

    def test_its_file_is_one_that_removal_takes(self) -> None:
        assert ours(rdma.PATH, NodeSpec())

    def test_reading(self) -> None:
        lines = [
            *("ofed OFED-internal-25.10-1.7.1:", "device mlx5_1", "device mlx5_0"),
            *("loaded ib_core", "autoload nvidia-peermem", "imex 18"),
            *(f"peermem {KERNEL} {SUM}", f"offers {KERNEL} {OLD_SUM}"),
            *("peermem 6.1.0-41-amd64 none", "peermem 6.1.0-42-amd64 unreadable"),
            *("efa # EFA installer version: 1.43.2", "efa efa-config_1.18_all.deb"),
        ]
        found = read_rdma(lines, True, {})["rdma"]
        assert found == Rdma(
            ofed=OFED,
            efa="1.43.2",
            devices=("mlx5_0", "mlx5_1"),
            loaded=("ib_core",),
            autoload=("nvidia_peermem",),
            peermem=(
                Peermem(kernel=KERNEL, built_against=SUM, ofed_has=OLD_SUM),
                Peermem(kernel="6.1.0-41-amd64", built_against="", ofed_has=""),
                Peermem(kernel="6.1.0-42-amd64", built_against=None, ofed_has=""),
            ),
            imex_nodes=18,
        )
        assert read_rdma([], True, {})["rdma"] == Rdma()
        assert read_cdi(
            ["cdi /run/cdi/nvidia.yaml 580.178.04", "cdi /etc/cdi/x.yaml "], True, {}
        ) == {"cdi": {"/run/cdi/nvidia.yaml": "580.178.04", "/etc/cdi/x.yaml": ""}}

    @pytest.mark.parametrize("line", ["peermem k 0x1", "offers k", "imex many", "peermem k"])
    def test_hostile_lines_make_no_facts(self, line: str) -> None:
        with pytest.raises(ValueError):  # noqa: PT011 - any words will do
            read_rdma(["peermem k none", line] if "offers" in line else [line], True, {})


APT = """\
#!/bin/sh
case " $* " in
*" -s "*) cat "$PLAN" ;;
*) echo "$*" >>"$PLAN.did" ;;
esac
"""


@pytest.mark.parametrize(
    ("plan", "said"),
    [
        ("Inst rdma-core [50.0-1] (50.0-2 Debian:12 [amd64])", "it would change rdma-core"),
        ("Inst libibumad3 [2510.1] (44.0-2 Debian:12 [amd64])", "it would change libibumad3"),
        ("Remv mlnx-ofed-kernel-dkms [25.10]", "it would remove mlnx-ofed-kernel-dkms"),
        ("Inst libibumad3 (44.0-2 Debian:12 [amd64])", ""),
        ("Inst libc6 [2.36-9] (2.36-10 Debian:12 [amd64])", ""),
    ],
)
def test_apt_may_not_touch_an_rdma_stack_that_is_there(
    tmp_path: Path, plan: str, said: str
) -> None:
    wish = wanted()
    pins = {"nvlsm": PackagePin(version="2025.10.11-1", size=0)}
    command = transaction(wish.stack, pins, difference(pins, {}))
    (tmp_path / "plan").write_text(f"{plan}\nInst nvlsm (2025.10.11-1 NVIDIA [amd64])\n")
    for name, text in (("apt-get", APT), ("dpkg-query", "#!/bin/sh\n")):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    shell = command.shell.replace("PATH=/usr/local/sbin", f"PATH={tmp_path}:/usr/local/sbin")
    shell = shell.replace("/run/gpufleet-apt", f"{tmp_path}/work").replace(
        "/var/cache/apt", str(tmp_path)
    )
    done = subprocess.run(
        ["dash", "-c", shell],
        env={"PLAN": str(tmp_path / "plan"), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    assert said in done.stderr
    assert done.returncode == (1 if said else 0), done.stderr
    assert (tmp_path / "plan.did").exists() == (not said)


def boards(device: str, count: int, arch: str) -> NodeFacts:
    """A bare host with this many of one board, on the PCI bus without switches of their own."""
    bare = facts("none")
    assert bare.os is not None
    found = tuple(
        PciDevice(
            slot=f"0000:{0x1A + 16 * index:02x}:00.0",
            device=device,
            pci_class="030200",
            subsystem="10de:1999",
            revision="a1",
            driver="",
        )
        for index in range(count)
    )
    os = bare.os.model_copy(update={"arch": arch})
    return bare.model_copy(update={"pci": found, "os": os})


DRIVER_ONLY = {"torch": "none", "cuda": "none", "cudnn": "none", "nccl": "none"}


class TestBoards:
    """From the PCI bus to the plan, for boards that no simulated node has."""

    def plans(self, host: NodeFacts, **rdma: Any) -> tuple[HostPlan, HostPlan]:
        spec = NodeSpec(**DRIVER_ONLY)
        solution = solve(spec, host)
        assert solution.stack is not None, solution.blocked
        wish = Wanted(host="h1", spec=spec, stack=solution.stack)
        good = conform(wish, host).model_copy(update={"rdma": Rdma(**rdma)})
        for name in ("infiniband-diags", "libibumad3"):
            good = with_packages(good, **{name: "44.0-2"})
        return plan_host(wish, host), plan_host(wish, good)

    def test_hgx_b200(self) -> None:
        bare, good = self.plans(boards("2901", 8, "x86_64"), loaded=("ib_umad",))
        assert (titles(good), good.warnings) == ([], ())
        layers = [step.layer for step in bare.steps]
        assert layers.index("driver") < layers.index("fabric") < layers.index("persistence")
        assert "ib_umad is loaded at every boot" in titles(bare)
        assert any("infiniband-diags" in title for title in titles(bare))
        assert "imex" not in layers

    def test_gb200_tray(self) -> None:
        bare, good = self.plans(boards("2941", 4, "aarch64"), imex_nodes=18)
        assert titles(good) == ["nvidia-imex is enabled and runs"]
        layers = [step.layer for step in bare.steps]
        assert "fabric" not in layers
        assert layers.count("imex") == 1
        assert "names no tray" in bare.warnings[0]
