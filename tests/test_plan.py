"""Verdicts, reboots, warnings, and how a plan is shown."""

from __future__ import annotations

from typing import Any

import pytest

from deploy.commands.plan import document, exit_code
from deploy.facts import Disk, GpuUser, InstalledModule, Kernel, Modules, SlurmJob
from deploy.fleet.spec import NodeSpec
from deploy.plan import HostPlan, plan_host, users
from deploy.plan_reboot import reboot_due
from deploy.show_plan import View, counts, explain, in_one_line, render, size
from deploy.stack import Blocked, Reason, Solution
from deploy.steps import Reboot, Step, Wanted
from tests import factory
from tests.conformed import conformed
from tests.factory import KERNEL, facts
from tests.test_layers import NEW, OLD, at_version, wanted

JOB = SlurmJob(job="4711", user="alice", state="RUNNING")
USER = GpuUser(pid=4242, user="bob", command="python")


def modules(**values: Any) -> Modules:
    base: dict[str, Any] = {
        "loaded_version": "",
        "loaded_flavour": None,
        "installed": (InstalledModule(kernel=KERNEL, version=NEW, flavour="open"),),
        "nouveau_loaded": False,
        "nouveau_blacklisted": True,
        "refcount": None,
    }
    return Modules(**{**base, **values})


class TestBusy:
    def test_names_jobs_and_processes(self) -> None:
        found = facts("l40s", slurm_jobs=(JOB,), gpu_users=(USER,))
        assert users(found) == ("job 4711 of alice", "pid 4242 of bob (python)")

    def test_what_disturbs_waits_and_the_rest_does_not(self) -> None:
        wish = wanted("l40s", driver=NEW)
        found = at_version(wish, "l40s", OLD).model_copy(update={"gpu_users": (USER,), "files": {}})
        plan = plan_host(wish, found)
        assert plan.verdict == "busy"
        waits = {step.layer for step in plan.steps if step.disruptive}
        assert waits == {"pins", "driver", "persistence", "expected"}
        assert {step.layer for step in plan.steps if not step.disruptive} == {
            "os-base",
            "repository",
            "cuda",
        }

    def test_a_busy_host_as_wanted_is_kept(self) -> None:
        wish = wanted("l40s")
        plan = plan_host(wish, conformed(wish, "l40s", slurm_jobs=(JOB,)))
        assert plan.verdict == "keep"
        assert plan.busy == ("job 4711 of alice",)

    @pytest.mark.parametrize("part", ["gpu_users", "slurm_jobs"])
    def test_unknown_users_are_users(self, part: str) -> None:
        wish = wanted("l40s", driver=NEW)
        found = at_version(wish, "l40s", OLD).model_copy(
            update={part: None, "unknown": {part: "squeue failed"}}
        )
        plan = plan_host(wish, found)
        assert plan.verdict == "busy"
        assert "unknown" in plan.busy[0]
        assert "squeue failed" in plan.busy[0]


class TestBlocked:
    @pytest.mark.parametrize(
        "part",
        [
            "packages",
            "dpkg",
            "kernel",
            "modules",
            "pci",
            "files",
            "state",
            "sources",
            "services",
            "environments",
            "cuda",
            "python",
            "compiler",
            "tools",
            "disks",
        ],
    )
    def test_a_needed_fact_that_is_unknown_blocks(self, part: str) -> None:
        wish = wanted("hgx-h100")
        found = conformed(wish, "hgx-h100").model_copy(
            update={part: None, "unknown": {part: "took too long"}}
        )
        plan = plan_host(wish, found)
        assert plan.verdict == "blocked"
        assert plan.steps == ()
        assert plan.blocked is not None
        assert f"{part} could not be read: took too long" in plan.blocked.reason

    @pytest.mark.parametrize("path", ["/", "/usr", "/var/lib", "/opt", "/boot"])
    def test_a_read_only_disk_blocks_what_would_write(self, path: str) -> None:
        wish = wanted("l40s")
        disks = {path: Disk(size=10**11, available=10**11, read_only=True)}
        plan = plan_host(wish, facts("l40s", disks=disks))
        assert plan.blocked is not None
        assert "read-only" in plan.blocked.reason
        assert plan_host(wish, conformed(wish, "l40s", disks=disks)).verdict == "keep"


class TestReboot:
    def due(self, **values: Any) -> str | None:
        found = conformed(wanted("l40s"), "l40s", modules=modules(**values))
        reboot = reboot_due(wanted("l40s"), found)
        return reboot.why if reboot else None

    def test_is_due_when_another_module_is_loaded_than_installed(self) -> None:
        why = self.due(loaded_version=OLD, loaded_flavour="open")
        assert why == f"module {OLD} (open) is loaded, {NEW} (open) is installed"

    def test_is_due_when_the_other_flavour_is_loaded(self) -> None:
        assert self.due(loaded_version=NEW, loaded_flavour="closed") is not None

    def test_is_due_when_nouveau_holds_the_gpus(self) -> None:
        assert self.due(nouveau_loaded=True) is not None

    def test_is_not_due_when_it_would_not_help(self) -> None:
        assert self.due() is None
        assert self.due(loaded_version=NEW, loaded_flavour="open") is None
        assert self.due(nouveau_loaded=True, nouveau_blacklisted=False) is None
        assert self.due(loaded_version=OLD, loaded_flavour="open", installed=()) is None

    def test_a_running_kernel_without_headers_gives_way_to_the_next(self) -> None:
        wish = wanted("l40s")
        kernel = Kernel(running="6.1-old", next=KERNEL, installed=(), headers=(KERNEL,))
        found = conformed(wish, "l40s", kernel=kernel)
        bare = found.model_copy(update={"modules": modules(installed=())})
        plan = plan_host(wish, bare)
        assert not any("6.1-old" in step.title for step in plan.steps)
        assert plan.reboot is not None
        assert "6.1-old has no headers any more" in plan.reboot.why
        built = found.model_copy(update={"modules": modules()})
        assert reboot_due(wish, bare) is None
        due = reboot_due(wish, built)
        assert due is not None
        assert [step.layer for step in plan_host(wish, built).steps] == ["persistence"]

    def test_is_never_due_without_a_wanted_driver(self) -> None:
        wish = wanted("l40s", driver="none")
        found = conformed(wish, "l40s", modules=modules(loaded_version=OLD))
        assert reboot_due(wish, found) is None

    def test_is_foreseen_only_when_unloading_has_failed_before(self) -> None:
        wish = wanted("l40s", driver=NEW)
        assert plan_host(wish, at_version(wish, "l40s", OLD)).reboot is None
        loaded = modules(loaded_version=OLD, loaded_flavour="open")
        plan = plan_host(wish, conformed(wish, "l40s", modules=loaded))
        assert plan.reboot is not None
        assert plan.reboot.expected
        assert [step.title for step in plan.steps] == [
            f"driver {NEW} (open modules) is loaded",
            "nvidia-persistenced is enabled and runs",
        ]


class TestWarnings:
    def test_of_what_came_with_the_old_driver_and_is_not_in_the_lock(self) -> None:
        wish = wanted("l40s", driver=NEW)
        found = at_version(wish, "l40s", OLD)
        packages = dict(found.packages or {})
        packages["nvidia-imex"] = packages["libcuda1"]
        plan = plan_host(wish, found.model_copy(update={"packages": packages}))
        assert any(f"nvidia-imex {OLD}-1" in text for text in plan.warnings)

    def test_of_little_space(self) -> None:
        wish = wanted("l40s")
        disks = {"/": Disk(size=10**9, available=10_000, read_only=False)}
        plan = plan_host(wish, facts("l40s", disks=disks))
        assert any("MiB free on /" in text for text in plan.warnings)


def step(title: str = "a thing is so", **values: Any) -> Step:
    return Step(**{"layer": "cuda", "title": title, "why": "it was not", "commands": (), **values})


BLOCK = Blocked(
    host="h9", reason="A and B", rule="not both", source="the vendor", unblock=("do C", "do D")
)


def view(plans: dict[str, HostPlan], **values: Any) -> View:
    base: dict[str, Any] = {
        "fleet": "lab",
        "inventory": "lab.py",
        "lock": "lab.lock",
        "stacks": 1,
        "plans": plans,
        "unreachable": {},
        "notes": {},
    }
    return View(**{**base, **values})


def text(shown: View) -> str:
    return "\n".join(line for _style, line in render(shown))


class TestShown:
    def test_summary_counts_every_host(self) -> None:
        plans = {
            "h1": HostPlan(host="h1"),
            "h2": HostPlan(host="h2", steps=(step(download=10**9),), download=10**9),
            "h3": HostPlan(host="h3", steps=(step(disruptive=True),), busy=("job 1 of al",)),
            "h4": HostPlan(host="h4", reboot=Reboot(why="nouveau", expected=True)),
            "h9": HostPlan(host="h9", blocked=BLOCK),
        }
        shown = text(view(plans, unreachable={"h5": "h5: refused"}))
        assert shown.splitlines()[0] == (
            "lab: 6 hosts: keep 1, change 3, blocked 1, reboots 1, busy 1, unreachable 1, "
            "download 1.0 GB"
        )
        assert "next: gpufleet apply lab.py" in shown

    def test_hosts_with_equal_plans_are_folded(self) -> None:
        plans = {f"gpu{n:03}": HostPlan(host=f"gpu{n:03}", steps=(step(),)) for n in range(1, 129)}
        plans["gpu007"] = HostPlan(host="gpu007", steps=(step("another thing"),))
        shown = text(view(plans))
        assert "change  gpu[001-006,008-128] (127): 1 step\n" in shown
        assert "change  gpu007: 1 step\n" in shown
        assert shown.count("a thing is so") == 1

    def test_busy_hosts_say_who_and_what_waits(self) -> None:
        plan = HostPlan(
            host="h1", steps=(step("x"), step("y", disruptive=True)), busy=("job 4711 of alice",)
        )
        shown = text(view({"h1": plan}))
        assert "in use by job 4711 of alice" in shown
        assert "! cuda  y" in shown
        assert "  cuda  x" in shown

    def test_blocked_hosts_say_why_and_what_would_help(self) -> None:
        shown = text(view({"h9": HostPlan(host="h9", blocked=BLOCK)}))
        for words in ("A and B", "rule: not both (source: the vendor)", "to unblock: do D"):
            assert words in shown
        assert "next: gpufleet plan lab.py --explain h9" in shown

    def test_a_fleet_with_nothing_to_change_is_next_verified(self) -> None:
        shown = text(view({"h1": HostPlan(host="h1")}))
        assert "next: gpufleet verify lab.py (nothing to change)" in shown

    def test_says_that_no_lock_was_used(self) -> None:
        shown = text(view({"h1": HostPlan(host="h1")}, lock=""))
        assert "no lock" in shown
        assert "gpufleet lock lab.py" in shown

    def test_texts_of_a_host_cannot_command_the_terminal(self) -> None:
        evil = "\x1b[2J\x07"
        plan = HostPlan(
            host="h1",
            steps=(step(title=evil, why=evil),),
            busy=(evil,),
            warnings=(evil,),
            reboot=Reboot(why=evil, expected=True),
        )
        assert "\x1b" not in text(view({"h1": plan}, unreachable={"h2": evil}))

    @pytest.mark.parametrize(
        ("hardware", "line"),
        [
            ("hgx-h100", "driver 580.178.04 (open), CUDA toolkit 13.0, cuDNN 9.26.0.51, "
             "NCCL 2.30.7, torch 2.15.0+cu132, Python 3.11"),
            ("v100", "driver 580.178.04 (closed), CUDA toolkit 12.9, cuDNN 9.10.2.21, "
             "NCCL 2.29.3, torch 2.14.1+cu126, Python 3.11"),
            ("none", "torch 2.15.0+cpu, Python 3.11"),
        ],
    )  # fmt: skip
    def test_one_line_says_which_cuda(self, hardware: str, line: str) -> None:
        answer = factory.solve(NodeSpec(), facts(hardware))
        assert answer.stack is not None
        assert in_one_line(answer.stack) == line
        plans = {"h1": HostPlan(host="h1", steps=(step(),)), "h2": HostPlan(host="h2")}
        assert text(view(plans, chosen={"h1": line})).count(f"\n  {line}\n") == 1
        assert line in str(explain(answer, plans["h1"]))

    def test_hosts_that_keep_different_stacks_stand_apart(self) -> None:
        plans = {name: HostPlan(host=name) for name in ("h1", "h2", "h3")}
        shown = text(view(plans, chosen={"h1": "driver 1", "h2": "driver 1", "h3": "driver 2"}))
        assert "keep    h[1-2] (2)\n  driver 1\n" in shown
        assert "keep    h3\n  driver 2\n" in shown

    def test_explains_a_choice_with_its_source(self) -> None:
        reason = Reason(part="driver", choice="580.178.04", because="LTS", source="row 580")
        told = explain(
            Solution(host="h1", stack=None, blocked=BLOCK, reasons=(reason,), warnings=("w",)),
            HostPlan(host="h1", blocked=BLOCK),
        )
        lines = [line for _style, line in told]
        assert "  driver  580.178.04" in lines
        assert "          because LTS" in lines
        assert "  warning: w" in lines
        assert "  A and B" in lines

    def test_explains_a_lock_by_solving_again(self) -> None:
        def solution(hardware: str, because: str) -> Solution:
            reason = Reason(part="driver", choice="580", because=because, source="s")
            stack = wanted(hardware).stack
            return Solution(host="h1", stack=stack, blocked=None, reasons=(reason,), warnings=())

        keep = HostPlan(host="h1")
        locked = solution("l40s", "the lock says so")
        same = explain(locked, keep, solution("l40s", "LTS"))
        assert "solving again today gives the same" in str(same)
        assert "the lock says so" not in str(same)
        assert "because LTS" in str(same)
        other = str(explain(locked, keep, solution("v100", "V100")))
        assert other.index("the lock says so") < other.index("today the answer would be stack")

    @pytest.mark.parametrize(
        ("count", "said"), [(0, "0 B"), (999, "999 B"), (1500, "1.5 kB"), (3 * 10**9, "3.0 GB")]
    )
    def test_sizes(self, count: int, said: str) -> None:
        assert size(count) == said


class TestExitCode:
    KEEP = HostPlan(host="h1")
    CHANGE = HostPlan(host="h2", steps=(step(),))
    BUSY = HostPlan(host="h3", steps=(step(disruptive=True),), busy=("job 1",))
    STOP = HostPlan(host="h9", blocked=BLOCK)

    @pytest.mark.parametrize(
        ("plans", "unreachable", "plain", "check"),
        [
            ([KEEP], False, 0, 0),
            ([KEEP, CHANGE], False, 0, 3),
            ([BUSY], False, 0, 3),
            ([KEEP], True, 4, 4),
            ([CHANGE], True, 4, 3),
            ([CHANGE, STOP], True, 1, 1),
        ],
    )
    def test_table(self, plans: list[HostPlan], unreachable: bool, plain: int, check: int) -> None:
        shown = view({p.host: p for p in plans}, unreachable={"h0": "gone"} if unreachable else {})
        assert exit_code(shown, check=False) == plain
        assert exit_code(shown, check=True) == check

    def test_json_holds_every_host(self) -> None:
        wish: Wanted = wanted("l40s")
        plan = plan_host(wish, facts("l40s"))
        shown = view({"h1": plan}, unreachable={"h2": "gone"})
        solution = Solution(host="h1", stack=wish.stack, blocked=None, reasons=(), warnings=())
        content = document(shown, {"h1": solution}, 3)
        assert content["hosts"]["h2"] == {"verdict": "unreachable", "message": "gone"}
        assert content["hosts"]["h1"]["verdict"] == "change"
        assert content["hosts"]["h1"]["stack"] == wish.stack.id
        assert content["summary"] == counts(shown)
        assert content["exit"] == 3
        assert "commands" not in content["hosts"]["h1"]["steps"][0]
