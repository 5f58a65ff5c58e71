"""Layers on Enterprise Linux and Ubuntu, from what the catalogue says they are offered: a state of
the host in, the steps out."""

from __future__ import annotations

import re
import subprocess
from typing import Any

import pytest

from deploy.facts import (
    Candidate,
    InstalledModule,
    Kernel,
    Modules,
    NodeFacts,
    Package,
    Source,
)
from deploy.fleet.spec import NodeSpec
from deploy.interest import PACKAGES
from deploy.layers import driver, os_base, pins, repository
from deploy.plan import plan_host
from deploy.probing.rpm_facts import LOCKS
from deploy.solve import choose, complete
from deploy.solving.fits import check_fit
from deploy.solving.refusal import Refused
from deploy.solving.situation import situation
from deploy.steps import Step, Wanted
from tests import bare
from tests.conformed import conform
from tests.factory import TODAY, environment

H100, L40S, V100 = "2330", "26b9", "1db5"
EL_KERNEL, UBUNTU_KERNEL = "5.14.0-611.5.1.el9_7.x86_64", "6.8.0-87-generic"
KERNELS = {"rhel8": "4.18.0-553.el8_10.x86_64", "rhel9": EL_KERNEL, "ubuntu2404": UBUNTU_KERNEL}


EPEL = (Source(path="/etc/yum.repos.d/epel.repo", line="[epel] https://x.example"),)


def fresh(distribution: str, device: str = L40S, **changes: Any) -> NodeFacts:
    """A bare host; one of EL has EPEL configured."""
    found = bare.host(distribution, device, kernel=KERNELS[distribution])
    return found.model_copy(update={"sources": EPEL, **changes})


def wanted(distribution: str, device: str = L40S, **spec: Any) -> Wanted:
    wish = NodeSpec(**{"torch_build": "cpu", "torch": "2.8.0", **spec})
    found = fresh(distribution, device, secure_boot=spec.pop("secure_boot", "disabled"))
    offered = bare.offered(distribution, kernel=KERNELS[distribution])
    answer = choose(wish, found, bare.CATALOGUE, offered, TODAY)
    solution = answer.solution
    if answer.environment is not None:
        solution = complete(answer, environment(python=answer.environment.python))
    assert solution.stack is not None, solution.blocked
    return Wanted(host="h1", spec=wish, stack=solution.stack)


def good(wish: Wanted, device: str = L40S, **changes: Any) -> NodeFacts:
    return conform(wish, fresh(wish.stack.distribution, device), **changes)


def titles(layer: Any, wish: Wanted, found: NodeFacts) -> list[str]:
    return [step.title for step in layer.steps(wish, found)]


def shells(steps: list[Step]) -> str:
    return "\n".join(command.shell for step in steps for command in step.commands)


SYSTEMS = ("rhel8", "rhel9", "ubuntu2404")


@pytest.mark.parametrize("distribution", SYSTEMS)
@pytest.mark.parametrize("device", [H100, V100])
class TestEverySystem:
    def test_nothing_is_left_to_do_on_a_host_as_wanted(
        self, distribution: str, device: str
    ) -> None:
        wish = wanted(distribution, device)
        plan = plan_host(wish, good(wish, device))
        assert plan.blocked is None
        assert [(step.title, step.why) for step in plan.steps] == []

    def test_every_command_is_shell(self, distribution: str, device: str) -> None:
        wish = wanted(distribution, device)
        plan = plan_host(wish, fresh(distribution, device))
        assert len(plan.steps) > 10
        for step in plan.steps:
            for command in step.commands:
                done = subprocess.run(
                    ["sh", "-n"], input=command.shell, text=True, capture_output=True
                )
                assert done.stderr == "", step.title


@pytest.mark.parametrize("distribution", [row.name for row in bare.CATALOGUE.distributions])
def test_the_probe_reports_every_package_that_a_plan_may_ask_for(distribution: str) -> None:
    row = bare.CATALOGUE.named(distribution)
    base = row.base
    names = {one.name for one in bare.every(bare.offered(distribution, next(iter(row.arch))))}
    names |= {*base.dkms, *base.certificates, *base.python, *base.venv, *base.python_headers}
    names |= {*base.compiler, *base.fabric_nvlink5}
    assert [name for name in sorted(names) if not re.match(PACKAGES, name)] == []


class TestEl:
    def test_speaks_dnf_only(self) -> None:
        wish = wanted("rhel9")
        text = shells(list(plan_host(wish, fresh("rhel9")).steps))
        assert "apt-get" not in text
        assert "update-initramfs" not in text
        assert "dracut --force --regenerate-all" in text

    @pytest.mark.parametrize(
        ("found", "why"),
        [
            ({}, "no stream of nvidia-driver is enabled"),
            ({"nvidia-driver": "570-open"}, "stream 570-open is enabled"),
            ({"nvidia-driver": "580-dkms", "nodejs": "18"}, "stream 580-dkms is enabled"),
        ],
    )
    def test_stream_is_reset_and_enabled(self, found: dict[str, str], why: str) -> None:
        wish = wanted("rhel9")
        (step,) = driver.steps(wish, good(wish, streams=found))
        assert (step.title, step.why) == ("module stream nvidia-driver:580-open is enabled", why)
        shell = step.commands[0].shell
        assert shell.index("module reset") < shell.index("module enable")
        assert not step.disruptive

    def test_stream_of_a_driver_in_use_changes_with_it_only(self) -> None:
        wish = wanted("rhel9")
        found = good(wish)
        assert found.packages is not None
        moved = found.packages | {
            "nvidia-driver-cuda": Package(version="3:570.1-1", state="ii", held=False)
        }
        old = good(wish, packages=moved, streams={"nvidia-driver": "570-open"})
        assert [step.disruptive for step in driver.steps(wish, old)] == [True, True]

    def test_locks_are_a_block_of_ours(self) -> None:
        wish = wanted("rhel9")
        (step,) = pins.steps(wish, good(wish, own_versionlocks=("libnccl-0:1-1.*",)))
        text = step.commands[0].stdin
        lines = text.splitlines()
        assert lines[0].startswith("# gpufleet begin")
        assert lines[-1] == "# gpufleet end"
        entry = next(line for line in lines if line.startswith("nvidia-driver-cuda-"))
        assert entry.startswith("nvidia-driver-cuda-3:580.")
        assert any(line.startswith("libnccl-0:2.") and line.endswith(".*") for line in lines)
        assert "1 locked otherwise" in step.why

    @pytest.mark.parametrize(
        ("before", "after"),
        [
            ("", "NEW"),
            ("bash-0:5-1.*", "bash-0:5-1.*\nNEW"),
            ("a-0:1-1.*\n# gpufleet begin: x\nold\n# gpufleet end\nb-0:1-1.*\n",
             "a-0:1-1.*\nb-0:1-1.*\nNEW"),
            ("# gpufleet begin: cut off\nold-0:1-1.*\n", "old-0:1-1.*\nNEW"),
        ],
    )  # fmt: skip
    def test_other_peoples_locks_stay(self, tmp_path: Any, before: str, after: str) -> None:
        wish = wanted("rhel9")
        (step,) = pins.steps(wish, good(wish, own_versionlocks=()))
        (command,) = step.commands
        path = tmp_path / "versionlock.list"
        if before:
            path.write_text(before)
        shell = command.shell.replace(f"list={LOCKS}", f"list={path}")
        assert str(path) in shell
        subprocess.run(["sh", "-c", shell], input=command.stdin, text=True, check=True)
        assert path.read_text() == after.replace("NEW", command.stdin)
        assert [one.name for one in tmp_path.iterdir()] == ["versionlock.list"]

    def test_a_package_that_somebody_else_locked_is_named(self) -> None:
        wish = wanted("rhel9")
        found = good(wish)
        assert found.packages is not None
        held = found.packages | {
            "nvidia-driver-cuda": Package(version="3:570.1-1", state="ii", held=True)
        }
        why = [step.why for step in driver.steps(wish, good(wish, packages=held))]
        assert "on hold: nvidia-driver-cuda" in " ".join(why)

    def test_both_flavours_installed_is_not_as_wanted(self) -> None:
        wish = wanted("rhel9")
        found = good(wish)
        assert found.packages is not None
        both = found.packages | {
            "kmod-nvidia-latest-dkms": Package(version="3:580.1-1", state="ii", held=False)
        }
        (step,) = driver.steps(wish, good(wish, packages=both))
        assert step.why == "the modules of kmod-nvidia-latest-dkms go"
        assert "LEAVE=kmod-nvidia-latest-dkms" in step.commands[0].shell

    def test_repository_file_and_key(self) -> None:
        wish = wanted("rhel9", proxy="http://proxy.example:3128", ca_bundle="/etc/pki/site.pem")
        key, source = repository.steps(wish, fresh("rhel9"))
        assert "rpm --import" in key.commands[0].shell
        text = source.commands[0].stdin
        for line in (
            "gpgcheck=1",
            "gpgkey=file:///etc/pki/rpm-gpg/RPM-GPG-KEY-gpufleet-vendor",
            "proxy=http://proxy.example:3128",
            "sslcacert=/etc/pki/site.pem",
        ):
            assert line in text.splitlines()
        assert "module_hotfixes" not in text
        assert repository.steps(wish, good(wish)) == []

    def test_a_repository_of_somebody_else_is_used_as_it_is(self) -> None:
        wish = wanted("rhel9")
        assert wish.stack.repository is not None
        theirs = (
            Source(
                path="/etc/yum.repos.d/cuda-rhel9.repo",
                line=f"[cuda-rhel9-x86_64] {wish.stack.repository.url}",
            ),
        )
        assert repository.steps(wish, fresh("rhel9", sources=theirs)) == []
        assert titles(repository, wish, good(wish, sources=theirs)) == [
            "vendor repository is configured once"
        ]

    def test_prerequisites_by_the_systems_names(self) -> None:
        wish = wanted("rhel9", torch_build="auto")
        there = {"dkms": Candidate(candidate="3.1-1", origins=("epel",), pin="")}
        (first, *_) = os_base.steps(wish, fresh("rhel9", candidates=there))
        for name in (f"kernel-devel-{EL_KERNEL}", "dkms", "python3-dnf-plugin-versionlock"):
            assert name in first.title

    def test_epel_is_enabled_where_the_distribution_has_it(self) -> None:
        wish = wanted("rhel9")
        found = fresh("rhel9", candidates=None)
        assert found.os is not None
        rocky = found.os.model_copy(update={"id": "rocky"})
        without = fresh("rhel9", candidates=None, os=rocky, sources=())
        first, second = titles(os_base, wish, without)[:2]
        assert first == "epel-release installed"
        assert "dkms" in second
        oracle = found.os.model_copy(update={"id": "ol", "version_id": "9.5"})
        assert titles(os_base, wish, fresh("rhel9", os=oracle, sources=()))[0] == (
            "oracle-epel-release-el9 installed"
        )

    def test_where_it_has_not_the_host_is_blocked_with_the_command(self) -> None:
        wish = wanted("rhel9")
        found = fresh("rhel9")
        assert found.os is not None
        rhel = found.os.model_copy(update={"id": "rhel", "version_id": "9.6"})
        plan = plan_host(wish, fresh("rhel9", os=rhel, sources=()))
        assert plan.blocked is not None
        assert "EPEL" in plan.blocked.reason
        assert "epel-release-latest-9.noarch.rpm" in plan.blocked.unblock[0]
        assert plan_host(wish, fresh("rhel9", os=rhel)).blocked is None

    def test_what_dnf_has_not_fetched_yet_keeps_both_kernels(self) -> None:
        wish = wanted("rhel9")
        newer = EL_KERNEL.replace("611", "700")
        kernels = Kernel(
            running=EL_KERNEL, next=newer, installed=(EL_KERNEL, newer), headers=(newer,)
        )
        both = fresh("rhel9", kernel=kernels, candidates=None)
        assert f"kernel-devel-{EL_KERNEL}" in os_base.prerequisites(wish, both)
        gone = fresh("rhel9", kernel=kernels, candidates={})
        assert f"kernel-devel-{EL_KERNEL}" not in os_base.prerequisites(wish, gone)

    def test_another_python_beside_the_systems_own_has_headers_of_its_own(self) -> None:
        wish = wanted("rhel9")
        found = fresh("rhel9")
        assert found.python is not None
        other = found.python.model_copy(update={"version": "3.11.11", "headers": False})
        lacking = os_base.prerequisites(wish, fresh("rhel9", python=other))
        managed = wish.stack.environment is None or wish.stack.environment.managed_python
        assert ("python3.11-devel" in lacking) == (not managed)

    @pytest.mark.parametrize("part", ["streams", "own_versionlocks"])
    def test_a_needed_fact_that_is_unknown_blocks(self, part: str) -> None:
        wish = wanted("rhel9")
        plan = plan_host(wish, good(wish, **{part: None, "unknown": {part: "a reason"}}))
        assert plan.blocked is not None
        assert "a reason" in plan.blocked.reason


class TestUbuntu:
    def test_signed_modules_come_built_for_each_kernel(self) -> None:
        wish = wanted("ubuntu2404", origin="distribution")
        assert wish.stack.driver is not None
        assert wish.stack.driver.prebuilt
        found = fresh("ubuntu2404")
        assert not any("headers" in name or "dkms" in name
                       for name in os_base.prerequisites(wish, found))  # fmt: skip
        package = wish.stack.driver.prebuilt.replace("{kernel}", UBUNTU_KERNEL)
        steps = driver.steps(wish, found)
        install, modules = (step for step in steps if "is loaded" not in step.title)
        assert f" {package}" in install.commands[0].shell
        assert modules.title.startswith("signed modules")
        assert f"set -- install --no-install-recommends --fix-broken {package}" in shells([modules])
        assert "dkms" not in shells([modules]).split("set -- ")[1]

    def test_signed_modules_of_another_driver_go_and_those_of_other_kernels_come_along(
        self,
    ) -> None:
        wish = wanted("ubuntu2404", origin="distribution")
        assert wish.stack.driver is not None
        branch = wish.stack.driver.branch
        mine = f"linux-modules-nvidia-{branch}-server-open-6.8.0-1-generic"
        stale = "linux-modules-nvidia-535-server-6.8.0-1-generic"
        found = good(wish)
        assert found.packages is not None
        name = next(iter(wish.stack.driver.packages))
        there = {
            name: Package(version="1-1", state="ii", held=False) for name in (name, mine, stale)
        }
        (first, *_) = driver.steps(wish, good(wish, packages=found.packages | there))
        arguments = next(
            line for line in first.commands[0].shell.splitlines() if line.startswith("set -- ")
        )
        assert mine in arguments
        assert stale not in arguments
        values = first.commands[0].shell.split("set -- ")[0]
        assert stale in next(line for line in values.splitlines() if line.startswith("may_go="))

    def test_the_archives_driver_follows_the_vendors_where_the_inventory_says_so(self) -> None:
        vendors = good(wanted("ubuntu2404"))
        spec = NodeSpec(origin="distribution")
        locked = wanted("ubuntu2404", origin="distribution").stack
        seen = situation(spec, vendors, bare.CATALOGUE)
        check_fit(spec, seen, locked, bare.CATALOGUE)
        with pytest.raises(Refused, match="one origin of driver packages"):
            check_fit(NodeSpec(), seen, locked, bare.CATALOGUE)

    @pytest.mark.parametrize(
        ("package", "steps"),
        [
            ("nvidia-driver-pinning-595", ["no other driver branch is pinned"]),
            ("nvidia-driver-pinning-580", []),
        ],
    )
    def test_a_pin_that_the_vendors_driver_left_goes(self, package: str, steps: list[str]) -> None:
        wish = wanted("ubuntu2404", origin="distribution", driver="580")
        found = good(wish)
        assert found.packages is not None
        there = {package: Package(version="595-1ubuntu1", state="ii", held=False)}
        assert titles(driver, wish, good(wish, packages=found.packages | there)) == steps

    def test_a_kernel_is_no_companion_of_a_driver(self) -> None:
        wish = wanted("ubuntu2404", origin="distribution")
        found = good(wish)
        assert found.packages is not None
        there = {
            f"linux-{part}-{UBUNTU_KERNEL}": Package(version="6.8.0-87.88", state="ii", held=False)
            for part in ("image", "modules-nvidia-580-server-open")
        }
        assert driver.companions(wish, good(wish, packages=found.packages | there)) == []

    def test_a_module_of_another_version_is_not_built(self) -> None:
        wish = wanted("ubuntu2404", origin="distribution")
        modules = Modules(
            loaded_version="",
            loaded_flavour=None,
            installed=(InstalledModule(kernel=UBUNTU_KERNEL, version="535.1.1", flavour="open"),),
            nouveau_loaded=False,
            nouveau_blacklisted=True,
            refcount=None,
        )
        first = driver.steps(wish, good(wish, modules=modules))[0]
        assert "signed modules" in first.title
        assert "535.1.1 (open)" in first.why

    def test_the_vendors_driver_of_another_branch_goes_by_its_own_names(self) -> None:
        wish = wanted("ubuntu2404", driver="580")
        found = good(wish)
        assert found.packages is not None
        old = found.packages | {
            "nvidia-dkms-570": Package(version="570.1-1ubuntu1", state="ii", held=False)
        }
        (step,) = driver.steps(wish, good(wish, packages=old))
        assert step.why == "the modules of nvidia-dkms-570 go"
        assert "nvidia-dkms-570-" in step.commands[0].shell
