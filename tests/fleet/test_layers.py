"""Each layer's commands on real nodes: probe, steps, run, probe, and nothing is left to do.

States that an earlier run, an operator or a power cut leaves behind; every test says what it is
that must be mended, and what must be left alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from deploy.idle import BECAME_BUSY
from deploy.layers import module
from deploy.plan_reboot import reboot_due
from tests.fleet.live import LiveFleet
from tests.fleet.thin import Node, node

pytestmark = pytest.mark.fleet

DRIVER_ONLY = {"cuda": "none", "cudnn": "none", "nccl": "none"}
OLD, NEW, NEXT = "580.159.04", "580.178.04", "595.91.07"


@contextmanager
def opened(fleet: LiveFleet, name: str) -> Iterator[Node]:
    one = node(fleet, name)
    try:
        yield one
    finally:
        one.connection.close()


@contextmanager
def fresh(fleet: LiveFleet, name: str) -> Iterator[Node]:
    """One node as after its first boot; the others stay as they are."""
    fleet.restore(name)
    with opened(fleet, name) as one:
        yield one


@pytest.fixture
def h100(fleet: LiveFleet) -> Iterator[Node]:
    with fresh(fleet, "h100-01") as one:
        yield one


@pytest.fixture
def l40s(fleet: LiveFleet) -> Iterator[Node]:
    with fresh(fleet, "l40s-01") as one:
        yield one


def loaded(one: Node) -> tuple[str, str | None]:
    modules = one.facts().modules
    assert modules is not None
    return modules.loaded_version, modules.loaded_flavour


def layers(one: Node) -> list[str]:
    return [title.split(":")[0] for title in one.titles()]


@pytest.mark.parametrize("name", ["h100-01", "l40s-01", "v100-01", "cpu-01"])
def test_a_bare_host_of_every_kind_converges_and_is_left_alone_then(
    fleet: LiveFleet, name: str
) -> None:
    with fresh(fleet, name) as one:
        one.want(torch="2.13.0", torch_build="cpu")
        one.converge()
        before = one.facts()
        assert one.titles() == []
        after = one.facts()
        same = {"uptime_s", "disks"}
        assert before.model_dump(exclude=same) == after.model_dump(exclude=same)


class TestDriver:
    def test_moves_inside_its_branch_both_ways_without_a_reboot(self, h100: Node) -> None:
        boot = h100.facts().boot_id
        for version in (OLD, NEW, OLD):
            h100.want(driver=version, **DRIVER_ONLY)
            h100.converge()
            assert loaded(h100) == (version, "open")
            assert reboot_due(h100.wanted, h100.facts()) is None

            assert h100.facts().services["nvidia-fabricmanager.service"].active == "active"
        assert h100.facts().boot_id == boot

    def test_moves_to_another_branch_and_back(self, h100: Node) -> None:
        for branch, version in (("580", NEW), ("595", NEXT), ("580", NEW)):
            h100.want(driver=branch, **DRIVER_ONLY)
            h100.converge()
            assert loaded(h100) == (version, "open")
            pin = h100.root("cat /etc/apt/preferences.d/nvidia-driver-pin")
            assert f"Pin: version {branch}.*" in pin
            names = [n for n in h100.facts().packages if n.startswith("nvidia-driver-pinning")]
            assert names == [f"nvidia-driver-pinning-{branch}"]

    def test_changes_its_flavour_at_the_same_version(self, l40s: Node) -> None:
        for flavour in ("open", "closed", "open"):
            l40s.want(driver=NEW, driver_modules=flavour, **DRIVER_ONLY)
            l40s.converge()
            assert loaded(l40s) == (NEW, flavour)

    def test_takes_metapackages_away_that_ask_for_more(self, l40s: Node) -> None:
        l40s.want(driver=NEW, **DRIVER_ONLY)
        l40s.converge()
        l40s.root("apt-get -q -y --no-install-recommends install nvidia-open nvidia-driver")
        l40s.want(driver=OLD, **DRIVER_ONLY)
        l40s.converge()
        assert loaded(l40s) == (OLD, "open")
        assert "nvidia-open" not in l40s.facts().packages

    def test_refuses_to_take_a_stranger_away(self, l40s: Node) -> None:
        l40s.want(driver=OLD, **DRIVER_ONLY)
        l40s.converge()
        l40s.root(
            "mkdir -p /root/site/DEBIAN; cd /root\n"
            "printf 'Package: site-tool\\nVersion: 1\\nArchitecture: all\\nMaintainer: x\\n"
            f"Description: x\\nDepends: libcuda1 (= {OLD}-1)\\n' >site/DEBIAN/control\n"
            "dpkg-deb -b site site.deb; dpkg -i site.deb"
        )
        l40s.want(driver=NEW, **DRIVER_ONLY)
        before = l40s.facts().packages
        done = l40s.run(l40s.plan().steps)
        assert done[-1].rc == 1
        assert "it would remove site-tool" in done[-1].said
        assert "nothing was changed" in done[-1].said
        assert l40s.facts().packages == before

    def test_keeps_holds_as_they_were(self, l40s: Node) -> None:
        l40s.want(driver=OLD, **DRIVER_ONLY)
        l40s.converge()
        l40s.root("apt-mark hold libnvidia-ml1 nvidia-smi")
        l40s.want(driver=NEW, **DRIVER_ONLY)
        assert any("on hold: libnvidia-ml1, nvidia-smi" in step.why for step in l40s.plan().steps)
        l40s.converge()
        assert loaded(l40s) == (NEW, "open")
        assert l40s.root("apt-mark showhold").split() == ["libnvidia-ml1", "nvidia-smi"]
        assert "owed_hold" not in l40s.facts().state

    def test_sets_holds_again_that_a_dead_run_had_taken_off(self, l40s: Node) -> None:
        l40s.want(driver=NEW, **DRIVER_ONLY)
        l40s.converge()
        l40s.root("echo 'owed_hold=libnvidia-ml1 nvidia-smi' >>/var/lib/gpufleet/state")
        assert l40s.titles() == ["expected: libnvidia-ml1, nvidia-smi on hold again"]
        l40s.converge()
        assert l40s.root("apt-mark showhold").split() == ["libnvidia-ml1", "nvidia-smi"]

    def test_starts_services_again_that_a_dead_run_had_stopped(self, h100: Node) -> None:
        h100.want(driver=NEW, **DRIVER_ONLY)
        h100.converge()
        h100.root(
            "systemctl stop nvidia-persistenced nvidia-fabricmanager\n"
            "echo 'owed_start=nvidia-fabricmanager nvidia-persistenced' >>/var/lib/gpufleet/state"
        )
        h100.converge()
        services = h100.facts().services
        assert services["nvidia-fabricmanager.service"].active == "active"
        assert services["nvidia-persistenced.service"].active == "active"

    def test_fabric_manager_follows_the_driver_when_somebody_moved_it(self, h100: Node) -> None:
        h100.want(driver=OLD, **DRIVER_ONLY)
        h100.converge()
        h100.root(
            f"apt-get -q -y install nvidia-fabricmanager={NEW}-1; "
            "systemctl restart nvidia-fabricmanager || true"
        )
        assert layers(h100) == ["fabric", "fabric"]
        h100.converge()
        assert h100.facts().services["nvidia-fabricmanager.service"].active == "active"

    def test_builds_for_the_next_kernel_too(self, l40s: Node) -> None:
        l40s.want(driver=NEW, **DRIVER_ONLY)
        l40s.converge()
        l40s.live.fault(l40s.name, "next-kernel")
        kernel = l40s.facts().kernel
        assert kernel.next != kernel.running
        done = l40s.converge()
        assert [one.step.layer for one in done] == ["os-base", "driver"]
        facts = l40s.facts()
        assert module.built_for(facts.modules, kernel.next, l40s.wanted.stack.driver)

    def test_says_why_a_build_failed_and_heals(self, l40s: Node) -> None:
        l40s.want(driver=NEW, **DRIVER_ONLY)
        with l40s.live.broken(l40s.name, "dkms-fails"):
            done = l40s.run(l40s.plan().steps)
            assert done[-1].rc != 0
            failed = done[-1].step
            assert "is installed" in failed.title
            log = l40s.root(f"tail -n 20 {failed.commands[-1].log}")
            assert "error" in log.lower()
        assert "os-base: package database is whole" in l40s.titles()
        l40s.converge()
        assert loaded(l40s) == (NEW, "open")

    def test_leaves_a_busy_host_alone_even_when_told_late(self, l40s: Node) -> None:
        l40s.want(driver=OLD, **DRIVER_ONLY)
        l40s.converge()
        l40s.want(driver=NEW, **DRIVER_ONLY)
        idle_plan = l40s.plan()
        with l40s.live.broken(l40s.name, "busy"):
            plan = l40s.plan()
            assert plan.verdict == "busy"
            assert "of trainer" in plan.busy[0]
            assert not [s for s in plan.steps if not s.disruptive]
            done = l40s.run(s for s in idle_plan.steps if s.layer == "driver")
            assert done[-1].rc == BECAME_BUSY
            assert "of trainer holds a GPU: nothing was changed" in done[-1].said
            assert loaded(l40s)[0] == OLD
        l40s.converge()

    def test_leaves_the_old_module_until_the_reboot_when_it_cannot_go(self, h100: Node) -> None:
        h100.want(driver=OLD, **DRIVER_ONLY)
        h100.converge()
        h100.want(driver=NEW, **DRIVER_ONLY)
        # Held by something that is neither a user with a device file nor one of our services.
        h100.root(
            "systemctl mask --now nvidia-dcgm 2>/dev/null || true\n"
            "mkdir -p /etc/sim/faults; systemd-run --unit nvidia-topologyd "
            "sh -c 'exec 5</dev/nvidia0; exec sleep 900'"
        )
        plan = h100.plan()
        assert plan.busy == ()
        done = h100.run(plan.steps)
        assert all(one.rc == 0 for one in done), done[-1].said
        facts = h100.facts()
        assert loaded(h100)[0] == OLD
        due = reboot_due(h100.wanted, facts)
        assert due is not None
        assert OLD in due.why
        assert h100.plan().reboot is not None
        h100.connection.close()
        h100.live.reboot(h100.name)
        with opened(h100.live, h100.name) as again:
            again.spec, again.wanted = h100.spec, h100.wanted
            assert loaded(again) == (NEW, "open")
            assert again.titles() == []

    def test_drives_nouveau_out_with_one_reboot(self, l40s: Node) -> None:
        l40s.live.fault(l40s.name, "nouveau")
        l40s.live.reboot(l40s.name)
        with opened(l40s.live, l40s.name) as one:
            one.want(driver=NEW, **DRIVER_ONLY)
            plan = one.plan()
            assert plan.reboot is not None
            assert all(ran.rc == 0 for ran in one.run(plan.steps))
            due = reboot_due(one.wanted, one.facts())
            assert due is not None
            assert "nouveau" in due.why
        one.live.reboot(one.name)
        with opened(one.live, one.name) as again:
            again.spec, again.wanted = one.spec, one.wanted
            again.converge()
            assert loaded(again) == (NEW, "open")
