"""Settings of GPUs and of the driver's module, as tables: what is found in, steps out."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest

from deploy.catalog import load
from deploy.facts import GpuUser, NodeFacts, OwnFile
from deploy.fleet.spec import NodeSpec
from deploy.layers import boot_settings, expected, memlock, mig, module_options, persistence
from deploy.lock import expected_state
from deploy.plan import HostPlan, plan_host
from deploy.plan_reboot import reboot_due
from deploy.probing.rdma_facts import Peermem, Rdma
from deploy.probing.setting_facts import FIELDS, read_params, read_settings
from deploy.removal import ours
from deploy.setting_rows import setting_rows
from deploy.steps import Wanted
from tests.broken import both, rpms, said
from tests.conformed import conformed
from tests.factory import facts, solved
from tests.reported import ask, changed, scene
from tests.reported import host as healthy_host
from tests.settled import PROFILES, gpu
from tests.test_checks import CHECKS

HALF = ("3g.40gb", "3g.40gb")


def wanted(hardware: str = "hgx-h100", **spec: Any) -> Wanted:
    return Wanted(host="h1", spec=NodeSpec(**spec), stack=solved(hardware, **spec))


def titles(plan: HostPlan) -> list[str]:
    assert plan.blocked is None, plan.blocked
    return [step.title for step in plan.steps]


def found(wish: Wanted, **changes: Any) -> NodeFacts:
    """A host that conforms but for its first GPU, which says something else."""
    good = conformed(wish, "hgx-h100")
    assert good.gpu_settings is not None
    first, *others = good.gpu_settings
    return good.model_copy(update={"gpu_settings": (first.model_copy(update=changes), *others)})


EVERYTHING: dict[str, Any] = {
    "power_limit": 500,
    "ecc": False,
    "mig": HALF,
    "module_options": ("NVreg_EnableStreamMemOPs=1",),
    "memlock": "unlimited",
    "dcgm": "latest",
    "container_toolkit": "latest",
    "torch": "none",
}


class TestEverything:
    def test_nothing_is_left_to_do_on_a_host_as_wanted(self) -> None:
        wish = wanted(**EVERYTHING)
        plan = plan_host(wish, conformed(wish, "hgx-h100"))
        assert titles(plan) == []
        assert plan.reboot is None
        assert plan.warnings == ()

    def test_a_bare_host_gets_all_of_it_in_one_plan_and_disturbs_nobody(self) -> None:
        wish = wanted(**EVERYTHING)
        plan = plan_host(wish, facts("hgx-h100"))
        seen = list(dict.fromkeys(step.layer for step in plan.steps))
        assert seen == [
            *("os-base", "repository", "pins", "module-options", "driver", "fabric"),
            *("persistence", "settings", "memlock", "cuda", "cudnn", "nccl", "dcgm"),
            *("container-toolkit", "expected"),
        ]
        assert not any(step.disruptive for step in plan.steps)
        assert plan.reboot is not None
        assert plan.reboot.why == "ECC is switched off by a boot"

    def test_every_command_is_shell_that_dash_can_read(self) -> None:
        wish, checked = wanted(**EVERYTHING), 0
        off = found(wish, power_limit=700.0, ecc=True, ecc_pending=True, mig=False)
        for host in (facts("hgx-h100"), off, conformed(wanted(), "hgx-h100")):
            for step in plan_host(wish, host).steps:
                for command in step.commands:
                    done = subprocess.run(
                        ["dash", "-n"], input=command.shell, text=True, capture_output=True,
                        check=False,
                    )  # fmt: skip
                    assert done.returncode == 0, (step.title, done.stderr)
                    checked += 1
        assert checked > 20

    def test_every_file_of_ours_is_one_that_removal_takes(self) -> None:
        spec = NodeSpec()
        for path in (
            *(
                boot_settings.UNIT_PATH,
                boot_settings.SCRIPT.rpartition("/")[0],
                module_options.PATH,
            ),
            *(memlock.SESSIONS, memlock.SERVICES),
        ):
            assert ours(path, spec), path

    def test_nothing_is_decided_while_what_the_driver_says_is_unknown(self) -> None:
        wish = wanted(power_limit=500)
        good = conformed(wish, "hgx-h100", gpu_settings=None, unknown={"gpu_settings": "hung"})
        blocked = plan_host(wish, good).blocked
        assert blocked is not None
        assert blocked.reason == "gpu_settings could not be read: hung"
        assert plan_host(wanted(), good.model_copy(update={"files": {}})).blocked is None

    def test_where_no_driver_is_managed_nothing_is_set_and_that_is_said(self) -> None:
        wish = wanted("none", power_limit=500, ecc=True, memlock="unlimited")
        plan = plan_host(wish, conformed(wish, "none"))
        assert titles(plan) == []
        assert plan.warnings == (
            "no driver is managed here, so nothing is set of power_limit, ecc",
        )
        bare = plan_host(wish, facts("none"))
        assert "memlock" in {step.layer for step in bare.steps}

    def test_a_driver_that_will_be_loaded_anew_is_not_asked(self) -> None:
        old, new = wanted(driver="580.159.04", power_limit=500), wanted(power_limit=500)
        host = conformed(old, "hgx-h100", gpu_settings=None)
        plan = plan_host(new, host)
        assert "power limit of every GPU is 500 W" in titles(plan)


class TestPower:
    def test_the_gpus_that_differ_are_named(self) -> None:
        wish = wanted(power_limit=500)
        plan = plan_host(wish, found(wish, power_limit=699.6))
        assert titles(plan) == ["power limit of every GPU is 500 W"]
        assert plan.steps[0].why == "found GPU 0: 699.6 W"
        assert not plan.steps[0].disruptive

    @pytest.mark.parametrize("watts", [199, 701])
    def test_beyond_the_boards_range_is_refused_with_the_range(self, watts: int) -> None:
        wish = wanted(power_limit=watts)
        blocked = plan_host(wish, found(wish, power_limit=700.0)).blocked
        assert blocked is not None
        assert blocked.reason.startswith(f"GPU 0 (GPU-0) takes 200 to 700 W, not {watts}; GPU 1")

    def test_a_board_without_one_is_refused(self) -> None:
        wish = wanted(power_limit=500)
        blocked = plan_host(wish, found(wish, power_limit=None)).blocked
        assert blocked is not None
        assert blocked.reason == "GPU 0 (GPU-0) has no power limit that can be set"

    def test_a_driver_that_shows_no_gpu_is_refused(self) -> None:
        wish = wanted(power_limit=500)
        blocked = plan_host(wish, conformed(wish, "hgx-h100", gpu_settings=())).blocked
        assert blocked is not None
        assert blocked.reason == "the loaded driver shows no GPU"

    def test_without_persistence_it_does_not_last_and_that_is_said(self) -> None:
        wish = wanted(power_limit=500, persistence=False)
        plan = plan_host(wish, conformed(wish, "hgx-h100"))
        assert len(plan.warnings) == 1
        assert "forgets the limit" in plan.warnings[0]

    def test_a_unit_that_somebody_disabled_is_enabled_again(self) -> None:
        wish = wanted(power_limit=500)
        good = conformed(wish, "hgx-h100")
        assert good.services is not None
        unit = f"{boot_settings.UNIT}.service"
        off = good.services[unit].model_copy(update={"enabled": "disabled"})
        host = good.model_copy(update={"services": {**good.services, unit: off}})
        plan = plan_host(wish, host)
        assert titles(plan) == ["GPU settings are made at every boot"]
        assert plan.steps[0].why == "gpufleet-gpu-settings is disabled"

    def test_left_out_later_only_our_files_go(self) -> None:
        before, after = wanted(power_limit=500), wanted()
        plan = plan_host(after, conformed(before, "hgx-h100"))
        title, recorded = titles(plan)
        assert title == "no GPU setting of ours is made at boot"
        assert recorded.startswith("stack "), "the expected state no longer has the wish"
        assert "stays until the driver is loaded again" in plan.steps[0].why
        assert "-pl" not in plan.steps[0].commands[0].shell


class TestEcc:
    def test_a_change_waits_for_a_boot_that_is_foreseen(self) -> None:
        wish = wanted(ecc=False)
        host = found(wish, ecc=True, ecc_pending=True)
        plan = plan_host(wish, host)
        assert titles(plan) == ["ECC is off from the next boot on"]
        assert plan.steps[0].why == "on for the next boot: GPU 0"
        assert plan.reboot is not None
        assert plan.reboot.expected
        assert reboot_due(wish, host) is None

    def test_a_pending_change_is_a_reboot_and_no_step(self) -> None:
        wish = wanted(ecc=False)
        host = found(wish, ecc=True)
        assert titles(plan_host(wish, host)) == []
        due = reboot_due(wish, host)
        assert due is not None
        assert due.why == "waiting for a boot: ECC of GPU 0"

    def test_somebody_elses_pending_change_is_not_ours_to_boot_for(self) -> None:
        wish = wanted()
        host = found(wish, ecc_pending=False)
        assert reboot_due(wish, host) is None
        assert plan_host(wish, host).reboot is None

    def test_on_is_refused_where_there_is_none_off_is_not(self) -> None:
        none = {"ecc": None, "ecc_pending": None}
        wish = wanted(ecc=True)
        blocked = plan_host(wish, found(wish, **none)).blocked
        assert blocked is not None
        assert "no ECC" in blocked.reason
        wish = wanted(ecc=False)
        assert titles(plan_host(wish, found(wish, **none))) == []

    def test_a_busy_host_is_not_rebooted_for_it(self) -> None:
        wish = wanted(ecc=False)
        user = GpuUser(pid=7, user="ada", command="python")
        host = found(wish, ecc=True).model_copy(update={"gpu_users": (user,)})
        assert plan_host(wish, host).verdict == "busy"


class TestMig:
    @pytest.mark.parametrize(
        ("changes", "why"),
        [
            ({"mig": False, "mig_pending": False}, "GPU 0: MIG is off"),
            ({"mig_instances": (), "mig_devices": ()}, "GPU 0: MIG without instances"),
            ({"mig_instances": ("7g.80gb",)}, "GPU 0: 7g.80gb"),
            ({"mig_devices": ("3g.40gb",)}, "GPU 0: 3g.40gb, 3g.40gb"),
        ],
    )
    def test_another_layout_is_cut_anew_on_an_idle_host(
        self, changes: dict[str, Any], why: str
    ) -> None:
        wish = wanted(mig=HALF)
        plan = plan_host(wish, found(wish, **changes))
        assert titles(plan) == ["every GPU is cut into 3g.40gb 3g.40gb"]
        assert (plan.steps[0].why, plan.steps[0].disruptive) == (why, True)

    def test_nothing_wished_leaves_it_and_an_empty_wish_switches_it_off(self) -> None:
        cut = {"mig": True, "mig_pending": True, "mig_instances": HALF, "mig_devices": HALF}
        wish = wanted()
        assert titles(plan_host(wish, found(wish, **cut))) == []
        wish = wanted(mig=())
        assert titles(plan_host(wish, found(wish, **cut))) == ["no GPU is cut by MIG"]
        assert titles(plan_host(wish, found(wish))) == []

    def test_an_unknown_profile_is_refused_with_what_there_is(self) -> None:
        wish = wanted(mig=("5g.40gb",))
        blocked = plan_host(wish, found(wish, mig_instances=(), mig_profiles=PROFILES)).blocked
        assert blocked is not None
        assert "GPU 0 (GPU-0) has no profile 5g.40gb; it offers 1g.10gb, 2g.20gb" in blocked.reason

    def test_a_gpu_that_knows_none_is_refused(self) -> None:
        wish = wanted(mig=HALF)
        blocked = plan_host(wish, found(wish, mig=None, mig_pending=None)).blocked
        assert blocked is not None
        assert blocked.reason == "GPU 0 (GPU-0) knows no MIG"

    def test_a_mode_that_waits_for_a_boot_is_not_tried_again(self) -> None:
        wish = wanted(mig=HALF)
        host = found(wish, mig=False, mig_instances=(), mig_devices=())
        assert titles(plan_host(wish, host)) == []
        due = reboot_due(wish, host)
        assert due is not None
        assert due.why == "waiting for a boot: MIG mode of GPU 0"

    def test_instances_that_only_root_sees_are_unknown_not_none(self) -> None:
        wish = wanted(mig=HALF)
        blocked = plan_host(wish, found(wish, mig_instances=None, mig_devices=None)).blocked
        assert blocked is not None
        assert "only root sees the MIG instances" in blocked.reason

    def test_the_largest_instance_is_made_first(self) -> None:
        assert mig.layout(("1g.10gb", "4g.40gb", "2g.20gb")) == "4g.40gb 2g.20gb 1g.10gb"


class TestModuleOptions:
    OPTION = ("NVreg_EnableStreamMemOPs=0x1",)

    def test_numbers_are_compared_as_numbers(self) -> None:
        wish = wanted(module_options=self.OPTION)
        assert module_options.parameters(self.OPTION) == {"EnableStreamMemOPs": "1"}
        assert titles(plan_host(wish, conformed(wish, "hgx-h100"))) == []

    def test_a_module_that_is_loaded_without_is_loaded_again(self) -> None:
        wish = wanted(module_options=self.OPTION)
        host = conformed(
            wish, "hgx-h100", module_params={"EnableMSI": "1", "EnableStreamMemOPs": "0"}
        )
        plan = plan_host(wish, host)
        assert titles(plan) == [
            f"driver {wish.stack.driver.version} (open modules) is loaded with its options"
        ]
        assert plan.steps[0].why == "loaded with EnableStreamMemOPs=0"
        assert plan.reboot is not None
        assert plan.reboot.expected
        assert plan.steps[0].disruptive
        due = reboot_due(wish, host)
        assert due is not None
        assert due.why == "module nvidia is loaded without EnableStreamMemOPs"

    def test_the_file_alone_is_no_reason_for_a_boot(self) -> None:
        wish = wanted(module_options=self.OPTION)
        host = conformed(wish, "hgx-h100", files={}, module_params={"EnableStreamMemOPs": "0"})
        assert reboot_due(wish, host) is None

    def test_an_option_that_the_driver_does_not_know_is_refused(self) -> None:
        wish = wanted(module_options=("NVreg_EnableStreamMemOps=1",))
        blocked = plan_host(wish, conformed(wish, "hgx-h100", module_params={"X": "1"})).blocked
        assert blocked is not None
        assert "has no option NVreg_EnableStreamMemOps" in blocked.reason

    def test_left_out_later_the_file_goes(self) -> None:
        plan = plan_host(wanted(), conformed(wanted(module_options=self.OPTION), "hgx-h100"))
        assert titles(plan) == ["module nvidia gets no options of ours"]
        assert "keeps its values until it is loaded again" in plan.steps[0].why

    def test_the_order_in_the_inventory_does_not_matter(self) -> None:
        options = ("NVreg_B=1", "NVreg_A=2")
        assert module_options.text(options) == module_options.text(options[::-1])


class TestMemlock:
    def test_sessions_and_services_have_their_files(self) -> None:
        wish = wanted(memlock="unlimited")
        plan = plan_host(wish, conformed(wanted(), "hgx-h100"))
        assert [step.layer for step in plan.steps] == ["memlock", "memlock"]
        assert "root hard memlock unlimited" in memlock.SESSIONS_TEXT

    def test_left_out_later_they_go(self) -> None:
        plan = plan_host(wanted(), conformed(wanted(memlock="unlimited"), "hgx-h100"))
        assert titles(plan) == ["lockable memory is the system's own again"]


class TestPersistence:
    def test_left_alone_nothing_is_done_and_nothing_is_expected(self) -> None:
        wish = wanted(persistence=False)
        assert persistence.steps(wish, facts("hgx-h100")) == []
        state = expected.document(wish, facts("hgx-h100"))
        assert state["services"] == ["nvidia-fabricmanager"]
        assert state["persistence"] is False

    def test_verification_does_not_ask_for_it(self) -> None:
        off = changed(scene(), said("expected.persistence", False))
        assert ask(CHECKS["gpu.persistence"], off) == (
            "the inventory leaves it as it is (persistence = False)"
        )


class TestVerification:
    def test_mig_is_expected_where_it_is_wished(self) -> None:
        whole = scene()
        cut = changed(whole, said("expected.mig", ["3g.40gb"]))
        look = ask(CHECKS["gpu.mig"], cut)
        assert not isinstance(look, str)
        assert (look.verdict, len(look.findings)) == ("degraded", 8)
        assert look.findings[0].expected == "on"

    def test_ecc_may_be_wished_off(self) -> None:
        whole = scene()
        wished_off = said("expected.ecc", False)
        look = ask(CHECKS["gpu.ecc"], changed(whole, wished_off))
        assert not isinstance(look, str)
        assert (look.verdict, look.findings[0].expected) == ("degraded", "off")
        is_off = [said(f"report.nvml.gpus.{index}.ecc.mode", False) for index in range(8)]
        look = ask(CHECKS["gpu.ecc"], changed(whole, both(wished_off, *is_off)))
        assert not isinstance(look, str)
        assert look.verdict == "pass"

    def test_the_container_toolkit_may_come_from_its_own_repository(self) -> None:
        healthy = scene()
        there = healthy_host(healthy)
        for name in ("nvidia-container-toolkit", "libnvidia-container1"):
            there.packages[name] = "1.18.2-1"
            there.offers[name] = ("1.18.2-1", "https://nvidia.github.io/libnvidia-container")
        look = ask(CHECKS["stack.origin"], healthy, there)
        assert not isinstance(look, str)
        assert look.verdict == "pass"
        there.offers["libnvidia-ml1"] = (there.packages["libnvidia-ml1"], "file:/other")
        look = ask(CHECKS["stack.origin"], healthy, there)
        assert not isinstance(look, str)
        assert look.verdict == "fail"

    def test_a_host_of_rpm_and_dnf_is_green(self) -> None:
        healthy = scene()
        there = healthy_host(healthy)
        rpms(there, {}, {"nvidia-container-toolkit": "toolkit"})
        for name in ("stack.packages", "stack.origin"):
            look = ask(CHECKS[name], healthy, there)
            assert not isinstance(look, str)
            assert (look.verdict, look.findings) == ("pass", [])

    def test_the_services_of_what_is_installed_are_expected(self) -> None:
        wish = wanted(dcgm="latest", container_toolkit="latest", mig=HALF)
        state = expected_state("h1", wish.spec, wish.stack, gpus=8, nvswitches=4)
        assert "nvidia-dcgm" in state["services"]
        assert (state["dcgm"], state["container_toolkit"]) == ("4.5.2", "1.18.2")
        assert "datacenter-gpu-manager-4-core" in state["packages"]
        assert state["mig"] == list(HALF)


ROW = "gpu 0, GPU-1, 00000000:1A:00.0, Enabled, Enabled, Enabled, [N/A], [N/A], 500.00, [N/A], 7"


class TestReading:
    def test_a_gpu_and_its_instances(self) -> None:
        lines = [
            ROW,
            "gi |   0  MIG 3g.40gb          9        2          0:4     |",
            "gi |   0  MIG 1g.10gb+me      20        5          6:1     |",
            "gi | GPU   Name             Profile  Instance   Placement  |",
            "gip |   0  MIG 3g.40gb        9     1/2        39.50      No     60 |",
            "list GPU 0: NVIDIA H100 (UUID: GPU-1)",
            "list   MIG 3g.40gb     Device  0: (UUID: MIG-1)",
            "list   MIG 1c.3g.40gb  Device  1: (UUID: MIG-2)",
        ]
        (one,) = read_settings(lines, True, {})["gpu_settings"]
        assert one == gpu(
            uuid="GPU-1",
            mig=True,
            mig_pending=True,
            mig_instances=("1g.10gb+me", "3g.40gb"),
            mig_devices=("1c.3g.40gb", "3g.40gb"),
            mig_profiles=("3g.40gb",),
            ecc=None,
            ecc_pending=None,
            power_limit=500.0,
            power_min=None,
            power_max=7.0,
        )

    def test_a_user_who_may_not_see_instances_knows_none(self) -> None:
        unknown: dict[str, str] = {}
        (one,) = read_settings([ROW, "mig-blind"], False, unknown)["gpu_settings"]
        assert one.mig_instances is None
        assert "gpu_settings.mig_instances" in unknown

    @pytest.mark.parametrize(
        "line", ["gpu ", "gpu 0, GPU-1", ROW.replace("1A:", "zz:"), ROW.replace("gpu 0", "gpu x")]
    )
    def test_an_answer_that_makes_no_sense_is_none(self, line: str) -> None:
        with pytest.raises(ValueError):  # noqa: PT011 - any words will do
            read_settings([line], True, {})

    def test_texts_among_parameters_lose_their_quotes(self) -> None:
        lines = ["param EnableMSI: 1", 'param RegistryDwords: ""', "param "]
        assert read_params(lines, True, {}) == {
            "module_params": {"EnableMSI": "1", "RegistryDwords": ""}
        }

    def test_as_many_values_as_fields(self) -> None:
        assert len(ROW.split(",")) == len(FIELDS)


SMI = """\
#!/bin/sh
echo "nvidia-smi $*" >>"$0.log"
case "$*" in
*query-gpu=index*) echo 0 ;;
*query-gpu=mig.mode.current*) cat "$0.mode" ;;
*-lgi*) cat "$0.gi" 2>/dev/null || exit 6 ;;
"-L") echo 'GPU 0: X (UUID: y)'; [ ! -e "$0.gi" ] || echo '  MIG 3g.40gb  Device  0: (UUID: m)' ;;
*"-mig 1"*) [ -e "$0.stuck" ] || echo Enabled >"$0.mode" ;;
*"-mig 0"*) echo Disabled >"$0.mode" ;;
*-dgi*) rm -f "$0.gi" ;;
*-cgi*) [ ! -e "$0.full" ] || { echo Insufficient Resources; exit 19; } ;;
esac
"""


@pytest.fixture
def smi(tmp_path: Path) -> Path:
    program = tmp_path / "nvidia-smi"
    program.write_text(SMI)
    program.chmod(0o755)
    return program


class TestPartition:
    """The shell that cuts, against a tool that answers by files."""

    def cut(self, smi: Path, layout: str, mode: str, **files: str) -> tuple[int, list[str], str]:
        for name, text in {"mode": mode + "\n", **files}.items():
            Path(f"{smi}.{name}").write_text(text)
        text = f"set -eu\nPATH={smi.parent}:$PATH\nlayout='{layout}'\n{mig.SHELL}partition_all\n"
        done = subprocess.run(
            ["dash", "-c", text], capture_output=True, text=True, check=False, timeout=30
        )
        log = Path(f"{smi}.log").read_text().splitlines()
        changes = [line.removeprefix("nvidia-smi ") for line in log]
        kinds = ("-mig", "-cgi", "-dgi", "-dci")
        return (
            done.returncode,
            [line for line in changes if any(f"{kind} " in f"{line} " for kind in kinds)],
            done.stdout + done.stderr,
        )

    ROW = "|   0  MIG 3g.40gb          9        2          0:4     |\n"

    def test_a_whole_gpu_is_cut(self, smi: Path) -> None:
        rc, did, _ = self.cut(smi, "3g.40gb 1g.10gb", "Disabled")
        assert (rc, did) == (0, ["-i 0 -mig 1", "mig -i 0 -cgi 3g.40gb,1g.10gb -C"])

    def test_one_that_is_cut_so_is_left_alone(self, smi: Path) -> None:
        assert self.cut(smi, "3g.40gb", "Enabled", gi=self.ROW)[:2] == (0, [])

    def test_another_layout_makes_room_first(self, smi: Path) -> None:
        rc, did, _ = self.cut(smi, "7g.80gb", "Enabled", gi=self.ROW)
        assert rc == 0
        assert did == ["mig -i 0 -dci", "mig -i 0 -dgi", "mig -i 0 -cgi 7g.80gb -C"]

    def test_switched_off_nothing_is_left(self, smi: Path) -> None:
        rc, did, _ = self.cut(smi, "", "Enabled", gi=self.ROW)
        assert (rc, did) == (0, ["mig -i 0 -dci", "mig -i 0 -dgi", "-i 0 -mig 0"])

    def test_a_mode_that_stays_pending_waits_for_the_boot(self, smi: Path) -> None:
        rc, did, said = self.cut(smi, "3g.40gb", "Disabled", stuck="")
        assert (rc, did) == (0, ["-i 0 -mig 1"])
        assert "takes effect at the next boot" in said

    def test_a_layout_that_does_not_fit_is_a_failure(self, smi: Path) -> None:
        rc, _, said = self.cut(smi, "7g.80gb", "Enabled", full="")
        assert rc == 1
        assert "GPU 0 cannot be cut into 7g.80gb; it offers:" in said

    def test_a_gpu_without_mig_fails_only_when_it_is_wished(self, smi: Path) -> None:
        assert self.cut(smi, "", "[N/A]")[0] == 0
        assert self.cut(smi, "7g.80gb", "[N/A]")[0] == 1


def test_a_file_that_was_written_but_not_enabled_is_written_again() -> None:
    wish = wanted(power_limit=500)
    good = conformed(wish, "hgx-h100")
    assert good.files is not None
    half = OwnFile(sha256=good.files[boot_settings.UNIT_PATH].sha256, mode="600")
    host = good.model_copy(update={"files": {**good.files, boot_settings.UNIT_PATH: half}})
    plan = plan_host(wish, host)
    assert titles(plan) == ["GPU settings are made at every boot"]
    assert "did not finish" in plan.steps[0].why


class TestRows:
    def rows(self, **changes: Any) -> dict[str, tuple[str, bool]]:
        host = facts("hgx-h100", **changes)
        return {row.label: (row.text, row.notable) for row in setting_rows(host, load())}

    def test_gpus_that_are_set_alike_take_one_line(self) -> None:
        same = (gpu(0, power_limit=500.0), gpu(1, power_limit=500.0))
        assert self.rows(gpu_settings=same) == {
            "settings": ("500 of 700 W, ECC on, MIG off", False)
        }

    def test_one_that_differs_or_waits_stands_out(self) -> None:
        cut = gpu(1, mig=True, mig_pending=True, mig_instances=("3g.40gb",))
        text, notable = self.rows(gpu_settings=(gpu(0), cut))["settings"]
        assert text.splitlines()[1] == "GPU 1: 700 W, ECC on, MIG on, 3g.40gb"
        assert notable
        waiting = (gpu(0, ecc_pending=False),)
        assert self.rows(gpu_settings=waiting)["settings"] == (
            "700 W, ECC on (off after a boot), MIG off",
            True,
        )

    def test_rdma_with_modules_that_do_not_fit(self) -> None:
        unfit = Peermem(kernel="k", built_against="", ofed_has="0x1")
        found = Rdma(ofed="OFED-1", efa="1.43", devices=("mlx5_0",), peermem=(unfit,))
        assert self.rows(rdma=found)["RDMA"] == (
            "OFED-1, EFA 1.43, 1 devices, no module for GPU memory, nvidia-peermem was built "
            "against another OFED",
            True,
        )
        assert self.rows() == {}


class TestBoot:
    """The script that a boot runs, against a tool that refuses some GPUs."""

    def run(self, tmp_path: Path, wish: Wanted, tool: str) -> tuple[int, list[str]]:
        program = tmp_path / "nvidia-smi"
        program.write_text(f'#!/bin/sh\necho "$*" >>{tmp_path}/log\n{tool}\n')
        program.chmod(0o755)
        text = boot_settings.boot_text(wish).replace(
            "PATH=/usr/local/sbin", f"PATH={tmp_path}:/sbin"
        )
        done = subprocess.run(
            ["dash", "-c", text], capture_output=True, text=True, check=False, timeout=30
        )
        return done.returncode, (tmp_path / "log").read_text().splitlines()

    def test_one_gpu_that_refuses_keeps_no_other_from_its_limit(self, tmp_path: Path) -> None:
        tool = 'case "$*" in *query*) echo 0; echo 1; echo 2 ;; "-i 1 -pl"*) exit 15 ;; esac'
        rc, did = self.run(tmp_path, wanted(power_limit=500), tool)
        assert rc == 1
        assert did[1:] == ["-i 0 -pl 500", "-i 1 -pl 500", "-i 2 -pl 500"]

    def test_a_driver_that_does_not_answer_is_a_failure(self, tmp_path: Path) -> None:
        assert self.run(tmp_path, wanted(power_limit=500), "exit 9")[0] != 0

    def test_all_is_well_when_all_took_it(self, tmp_path: Path) -> None:
        assert self.run(tmp_path, wanted(power_limit=500), "echo 0")[0] == 0


def test_what_is_set_in_a_driver_waits_with_it_on_a_busy_host() -> None:
    """Else it would run at every apply, find the old driver, and count as a change."""
    keys: dict[str, Any] = {"power_limit": 400, "container_toolkit": "latest"}
    old = Wanted(
        host="h1",
        spec=NodeSpec(driver="580.159.04", **keys),
        stack=solved("hgx-h100", driver="580.159.04", **keys),
    )
    new = Wanted(host="h1", spec=NodeSpec(**keys), stack=solved("hgx-h100", **keys))
    plan = plan_host(new, conformed(old, "hgx-h100"))
    later = {step.layer for step in plan.steps if step.disruptive}
    assert {"driver", "settings", "container-toolkit"} <= later
    assert not [
        step.title
        for step in plan.steps
        if step.layer in ("settings", "container-toolkit") and not step.disruptive
    ]


def test_a_reload_of_the_same_driver_keeps_no_setting_back() -> None:
    keys: dict[str, Any] = {"power_limit": 400}
    old = Wanted(host="h1", spec=NodeSpec(), stack=solved("hgx-h100"))
    new = Wanted(
        host="h1",
        spec=NodeSpec(module_options=("NVreg_EnableMSI=0",), **keys),
        stack=solved("hgx-h100"),
    )
    plan = plan_host(new, conformed(old, "hgx-h100"))
    assert "driver" in {step.layer for step in plan.steps if step.disruptive}
    limits = [step for step in plan.steps if step.title.startswith("power limit")]
    assert [step.disruptive for step in limits] == [False]
