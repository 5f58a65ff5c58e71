"""Layers as tables: a state of the host in, the titles of its steps out."""

from __future__ import annotations

import re
import shutil
import subprocess
from typing import Any

import pytest

from deploy.apt import SOURCE
from deploy.facts import (
    Cuda,
    Dpkg,
    Environment,
    InstalledModule,
    Kernel,
    NodeFacts,
    OwnFile,
    Package,
    PythonFacts,
    Service,
    Source,
)
from deploy.fleet.places import SYSTEM
from deploy.fleet.spec import NodeSpec
from deploy.idle import SERVICES
from deploy.interest import DRIVER_DAEMONS, PACKAGES
from deploy.layers import cuda, driver, expected, os_base, pins, repository, torch_env
from deploy.plan import LAYERS, plan_host
from deploy.stack import PackagePin
from deploy.steps import Wanted
from tests.conformed import conformed
from tests.factory import KERNEL, environment, facts, offers, solved

HARDWARE = ("hgx-h100", "l40s", "v100", "none")
OLD, NEW = "580.159.04", "580.178.04"


def wanted(hardware: str = "hgx-h100", **spec: Any) -> Wanted:
    return Wanted(host="h1", spec=NodeSpec(**spec), stack=solved(hardware, **spec))


def titles(layer: Any, wish: Wanted, found: NodeFacts) -> list[str]:
    return [step.title for step in layer.steps(wish, found)]


def changed(found: NodeFacts, **packages: str) -> dict[str, Package]:
    """The packages of a host, some at another version ("" takes one away)."""
    assert found.packages is not None
    mine = dict(found.packages)
    for name, version in packages.items():
        name = name.replace("_", "-")
        if version:
            mine[name] = Package(version=version, state="ii", held=False)
        else:
            del mine[name]
    return mine


def disruptive(wish: Wanted, found: NodeFacts) -> list[str]:
    return [step.title for step in plan_host(wish, found).steps if step.disruptive]


@pytest.mark.parametrize("hardware", HARDWARE)
class TestEveryHardware:
    def test_nothing_is_left_to_do_on_a_host_as_wanted(self, hardware: str) -> None:
        wish = wanted(hardware)
        plan = plan_host(wish, conformed(wish, hardware))
        assert [(step.title, step.why) for step in plan.steps] == []
        assert plan.verdict == "keep"
        assert plan.warnings == ()

    def test_every_layer_has_something_to_do_on_a_bare_host(self, hardware: str) -> None:
        wish = wanted(hardware)
        plan = plan_host(wish, facts(hardware))
        assert plan.verdict == "change"
        assert plan.reboot is None
        names = [layer.NAME for layer in LAYERS]
        seen = list(dict.fromkeys(step.layer for step in plan.steps))
        assert seen == [name for name in names if name in seen]
        silent = {
            "none": {"repository", "pins", "driver", "fabric", "persistence"}
            | {"cuda", "cudnn", "nccl"}
        }
        silent |= {"l40s": {"fabric"}, "v100": {"fabric"}, "hgx-h100": set()}
        unasked = {"module-options", "rdma", "imex", "settings", "memlock"}
        unasked |= {"dcgm", "container-toolkit"}
        assert set(names) - set(seen) == silent[hardware] | unasked
        assert not disruptive(wish, facts(hardware))

    def test_every_command_is_shell_that_dash_can_read(self, hardware: str) -> None:
        wish = wanted(hardware)
        checked = 0
        for found in (facts(hardware), *states(wish, hardware)):
            for step in plan_host(wish, found).steps:
                for command in step.commands:
                    done = subprocess.run(
                        [shutil.which("dash") or "sh", "-n"],
                        input=command.shell,
                        text=True,
                        capture_output=True,
                        check=False,
                    )
                    assert done.returncode == 0, (step.title, done.stderr)
                    checked += 1
        assert checked > 5


def states(wish: Wanted, hardware: str) -> list[NodeFacts]:
    """Hosts that were as wanted once, each with something else amiss."""
    good = conformed(wish, hardware)
    assert good.packages is not None
    assert good.environments
    damaged = good.environments[0].model_copy(update={"found": "e" * 64, "wheels": {}})
    broken = {
        name: one.model_copy(update={"state": "iF", "held": True})
        for name, one in good.packages.items()
    }
    return [
        conformed(wish, hardware, packages=broken),
        conformed(wish, hardware, files={}),
        conformed(wish, hardware, environments=(damaged,)),
        conformed(wish, hardware, dpkg=Dpkg(broken=("x",), interrupted=True, lock_holder="")),
        conformed(wish, hardware, state={"owed_hold": "libcuda1", "owed_start": "nvidia-dcgm"}),
    ]


def python(venv: bool, headers: bool) -> PythonFacts:
    return PythonFacts(version="3.11.2", venv=venv, headers=headers)


class TestOsBase:
    def test_repairs_an_interrupted_dpkg_before_anything_else(self) -> None:
        wish = wanted("l40s")
        found = conformed(
            wish, "l40s", dpkg=Dpkg(broken=("libcuda1",), interrupted=True, lock_holder="")
        )
        plan = plan_host(wish, found)
        assert [step.title for step in plan.steps] == ["package database is whole"]
        assert plan.steps[0].why == "dpkg was interrupted; left half-done: libcuda1"
        assert plan.steps[0].disruptive

    def test_a_repair_that_touches_no_gpu_package_disturbs_nobody(self) -> None:
        wish = wanted("l40s")
        found = conformed(
            wish, "l40s", dpkg=Dpkg(broken=("libfoo1",), interrupted=False, lock_holder="")
        )
        assert titles(os_base, wish, found) == ["package database is whole"]
        assert disruptive(wish, found) == []

    def test_nothing_runs_on_a_busy_host_before_its_package_database_is_whole(self) -> None:
        wish = wanted("l40s")
        found = conformed(
            wish,
            "l40s",
            files={},
            dpkg=Dpkg(broken=("libcuda1",), interrupted=True, lock_holder=""),
        )
        plan = plan_host(wish, found)
        assert len(plan.steps) > 3
        assert all(step.disruptive for step in plan.steps)

    @pytest.mark.parametrize(
        ("change", "title"),
        [
            ({"python": python(venv=False, headers=True)}, "python3-venv installed"),
            ({"python": python(venv=True, headers=False)}, "python3-dev installed"),
            ({"compiler": ""}, "g++, gcc, make installed"),
            ({"tools": ("curl",)}, "dkms installed"),
            (
                {"kernel": Kernel(running=KERNEL, next="6.9_X", installed=(), headers=(KERNEL,))},
                "linux-headers-6.9-x installed",
            ),
        ],
    )
    def test_installs_what_is_missing_by_presence(self, change: dict[str, Any], title: str) -> None:
        wish = wanted("l40s")
        assert titles(os_base, wish, conformed(wish, "l40s", **change)) == [title]

    def test_leaves_nouveau_to_whoever_keeps_it_off_already(self) -> None:
        wish = wanted("l40s")
        found = conformed(wish, "l40s")
        assert found.files is not None
        files = {path: file for path, file in found.files.items() if path != os_base.NOUVEAU}
        assert titles(os_base, wish, found.model_copy(update={"files": files})) == []

    def test_a_nouveau_file_whose_initramfs_was_not_rebuilt_is_not_done(self) -> None:
        wish = wanted("l40s")
        found = conformed(wish, "l40s")
        assert found.files is not None
        half = found.files[os_base.NOUVEAU].model_copy(update={"mode": "600"})
        found = found.model_copy(update={"files": {**found.files, os_base.NOUVEAU: half}})
        (step,) = os_base.steps(wish, found)
        assert "did not finish" in step.why
        assert "update-initramfs -u -k all" in step.commands[0].shell


class TestOurFiles:
    @pytest.mark.parametrize(
        ("path", "layer"),
        [
            (os_base.NOUVEAU, "os-base"),
            (os_base.UPGRADES, "os-base"),
            (repository.KEYRING, "repository"),
            (SOURCE, "repository"),
            (pins.PATH, "pins"),
            (cuda.PROFILE, "cuda"),
            (cuda.SERVICES, "cuda"),
            (SYSTEM.expected, "expected"),
        ],
    )
    @pytest.mark.parametrize("how", ["edited", "removed", "made unreadable"])
    def test_are_put_back(self, path: str, layer: str, how: str) -> None:
        wish = wanted("hgx-h100")
        files = dict(conformed(wish, "hgx-h100").files or {})
        good = files[path]
        if how == "removed":
            del files[path]
        elif how == "edited":
            files[path] = OwnFile(sha256="0" * 64, mode=good.mode)
        else:
            files[path] = OwnFile(sha256=good.sha256, mode="640")
        found = conformed(wish, "hgx-h100", files=files)
        if path == os_base.NOUVEAU and how == "removed":
            assert plan_host(wish, found).steps == ()  # the vendor's own file keeps it off
            return
        (step,) = plan_host(wish, found).steps
        assert step.layer == layer
        assert path in step.why
        assert not step.disruptive

    def test_each_is_found_by_its_name(self) -> None:
        wish = wanted("hgx-h100")
        for path in conformed(wish, "hgx-h100").files or {}:
            assert "gpufleet" in path


class TestRepository:
    def test_leaves_a_source_of_somebody_else_for_the_same_address(self) -> None:
        wish = wanted("l40s")
        repo = wish.stack.repository
        assert repo is not None
        line = f"deb [signed-by=/usr/share/keyrings/cuda-archive-keyring.gpg] {repo.url}/ /"
        theirs = Source(path="/etc/apt/sources.list.d/cuda.list", line=line)
        bare = facts("l40s", sources=(theirs,))
        assert titles(repository, wish, bare) == []
        both = conformed(wish, "l40s", sources=(theirs,))
        assert titles(repository, wish, both) == ["vendor repository is configured once"]
        warned = plan_host(wish, bare).warnings
        assert any("/etc/apt/sources.list.d/cuda.list" in text for text in warned)

    @pytest.mark.parametrize("line", ["deb http://10.77.0.1:8000/cuda/debian12/x86_64-other/ /",
                                      "deb http://elsewhere/cuda/debian12/x86_64/ /"])  # fmt: skip
    def test_is_not_misled_by_another_address(self, line: str) -> None:
        wish = wanted("l40s")
        found = facts("l40s", sources=(Source(path="/etc/apt/sources.list.d/x.list", line=line),))
        assert len(titles(repository, wish, found)) == 2

    def test_tells_apt_the_way_only_for_the_vendors_host(self) -> None:
        wish = wanted("l40s", proxy="http://proxy:3128", ca_bundle="/etc/ssl/site.pem")
        assert repository.network_text(wish) == (
            'Acquire::http::Proxy::10.77.0.1 "http://proxy:3128";\n'
            'Acquire::https::Proxy::10.77.0.1 "http://proxy:3128";\n'
            'Acquire::https::10.77.0.1::CAInfo "/etc/ssl/site.pem";\n'
        )
        without = wanted("l40s")
        found = conformed(wish, "l40s")
        assert "apt reaches the vendor repository directly" in titles(repository, without, found)


class TestDriver:
    def test_upgrade_in_its_branch(self) -> None:
        wish = wanted("l40s", driver=NEW)
        found = at_version(wish, "l40s", OLD)
        assert titles(driver, wish, found) == [
            f"driver {NEW} (open modules) is installed",
            f"modules {NEW} (open) exist for kernel {KERNEL}",
            f"driver {NEW} (open modules) is loaded",
        ]
        assert disruptive(wish, found) == [
            *titles(driver, wish, found),
            "nvidia-persistenced is enabled and runs",
        ]
        (first, *_) = driver.steps(wish, found)
        assert first.why == (
            f"firmware-nvidia-gsp, libcuda1, libcudadebugger1 and 9 more found at {OLD}-1, "
            f"wanted {NEW}-1"
        )
        assert "--allow-downgrades" not in first.commands[0].shell
        assert "--allow-change-held-packages" not in first.commands[0].shell
        assert first.download == 12 * 1000

    def test_downgrade_says_so_to_apt(self) -> None:
        wish = wanted("l40s", driver=OLD)
        (first, *_) = driver.steps(wish, at_version(wish, "l40s", NEW))
        assert "--allow-downgrades" in first.commands[0].shell

    def test_other_branch_swaps_the_pinning_package_first(self) -> None:
        wish = wanted("l40s", driver="595")
        assert wish.stack.driver is not None
        found = at_version(wish, "l40s", NEW)
        packages = changed(found, nvidia_driver_pinning_595="", nvidia_driver_pinning_580="580-1")
        found = found.model_copy(update={"packages": packages})
        (pin, *rest) = driver.steps(wish, found)
        assert pin.title == "driver branch 595 is pinned"
        assert "nvidia-driver-pinning-580 pins another branch" in pin.why
        assert "nvidia-driver-pinning-580-" in pin.commands[0].shell
        assert "nvidia-driver-pinning-595=595-1" in pin.commands[0].shell
        assert "conffiles=confnew" in pin.commands[0].shell
        assert pin.disruptive
        assert len(rest) == 3

    def test_other_flavour_goes_in_the_same_transaction(self) -> None:
        wish = wanted("l40s", driver_modules="open", driver=NEW)
        found = conformed(wish, "l40s")
        packages = changed(found, nvidia_kernel_open_dkms="", nvidia_kernel_dkms=f"{NEW}-1")
        assert found.modules is not None
        closed = found.modules.model_copy(
            update={
                "loaded_flavour": "closed",
                "installed": (InstalledModule(kernel=KERNEL, version=NEW, flavour="closed"),),
            }
        )
        found = found.model_copy(update={"packages": packages, "modules": closed})
        assert titles(driver, wish, found) == [
            f"driver {NEW} (open modules) is installed",
            f"modules {NEW} (open) exist for kernel {KERNEL}",
            f"driver {NEW} (open modules) is loaded",
        ]
        first = driver.steps(wish, found)[0]
        assert "the modules of nvidia-kernel-dkms go" in first.why
        assert "may_go=nvidia-kernel-dkms\n" in first.commands[0].shell
        assert first.disruptive

    def test_half_configured_package(self) -> None:
        wish = wanted("l40s")
        found = conformed(wish, "l40s")
        packages = dict(found.packages or {})
        packages["nvidia-kernel-open-dkms"] = Package(
            version=packages["nvidia-kernel-open-dkms"].version, state="iF", held=False
        )
        (step,) = driver.steps(wish, found.model_copy(update={"packages": packages}))
        assert "installed only in part: nvidia-kernel-open-dkms (iF)" in step.why
        assert step.commands[0].log == f"/var/lib/dkms/nvidia*/{NEW}/build/make.log"

    def test_removed_package_that_left_its_configuration(self) -> None:
        wish = wanted("l40s")
        found = conformed(wish, "l40s")
        packages = dict(found.packages or {})
        packages["nvidia-smi"] = Package(version=f"{NEW}-1", state="rc", held=False)
        (step,) = driver.steps(wish, found.model_copy(update={"packages": packages}))
        assert step.why == "not installed: nvidia-smi"
        assert not step.disruptive

    def test_held_package_is_let_go_and_held_again(self) -> None:
        wish = wanted("l40s", driver=NEW)
        found = at_version(wish, "l40s", OLD)
        packages = dict(found.packages or {})
        packages["libcuda1"] = Package(version=f"{OLD}-1", state="hi", held=True)
        first = driver.steps(wish, found.model_copy(update={"packages": packages}))[0]
        assert first.why.endswith("; on hold: libcuda1")
        shell = first.commands[0].shell
        assert "--allow-change-held-packages" in shell
        assert "apt-mark hold -- libcuda1\n" in shell
        assert shell.index("record owed_hold") < shell.index("apt-mark hold")

    def test_held_package_at_the_right_version_is_left_alone(self) -> None:
        wish = wanted("l40s")
        found = conformed(wish, "l40s")
        packages = dict(found.packages or {})
        packages["libcuda1"] = Package(version=f"{NEW}-1", state="hi", held=True)
        assert plan_host(wish, found.model_copy(update={"packages": packages})).steps == ()

    def test_module_of_the_next_kernel(self) -> None:
        wish = wanted("l40s")
        following = "6.1.0-41-amd64"
        kernel = Kernel(running=KERNEL, next=following, installed=(), headers=(KERNEL, following))
        (step,) = driver.steps(wish, conformed(wish, "l40s", kernel=kernel))
        assert step.title == f"modules {NEW} (open) exist for kernel {KERNEL} and {following}"
        assert step.why == f"{following}: no module on disk"
        assert not step.disruptive

    def test_is_no_business_of_ours_when_it_is_not_wanted(self) -> None:
        wish = wanted("l40s", driver="none")
        for layer in LAYERS:
            assert layer.NAME not in {"driver", "fabric", "persistence"} or not layer.steps(
                wish, facts("l40s")
            )

    def test_services_that_are_stopped_are_ones_that_do_not_count_as_users(self) -> None:
        assert set(SERVICES) <= DRIVER_DAEMONS


def at_version(wish: Wanted, hardware: str, version: str) -> NodeFacts:
    """A host that runs another version of the wanted driver's packages."""
    found = conformed(wish, hardware)
    assert wish.stack.driver is not None
    assert found.modules is not None
    names = {name.replace("-", "_"): f"{version}-1" for name in wish.stack.driver.packages}
    modules = found.modules.model_copy(
        update={
            "loaded_version": version,
            "installed": (
                InstalledModule(
                    kernel=KERNEL, version=version, flavour=found.modules.loaded_flavour
                ),
            ),
        }
    )
    return found.model_copy(update={"packages": changed(found, **names), "modules": modules})


TOOLKIT = (
    "cuda-cupti-13-0",
    "gds-tools-13-0",
    "libcufile-dev-13-0",
    "libnpp-13-0",
    "libnvcuvid1",
    "libnvfatbin-13-0",
    "libnvjpeg-13-0",
    "libnvptxcompiler-13-0",
    "libnvvm-13-0",
    "nsight-compute-2025.3.1",
)
"""Members of the vendor's toolkit and driver that the simulated repository does not have
(research: provisioning 2.9; the redistributable list of CUDA 13.0.2)."""


def test_the_probe_reports_every_package_that_a_lock_may_name() -> None:
    """A package that the probe leaves out would look missing for ever."""
    names = {offer.name for offer in offers()} | set(TOOLKIT)
    names |= {"linux-headers-6.1.0-40-amd64", "dkms", "ca-certificates", "g++", "python3-venv"}
    assert [name for name in sorted(names) if not re.search(PACKAGES, name)] == []


class TestServices:
    def test_fabric_manager_of_another_version(self) -> None:
        wish = wanted("hgx-h100", driver=NEW)
        found = conformed(wish, "hgx-h100")
        found = found.model_copy(
            update={"packages": changed(found, nvidia_fabricmanager=f"{OLD}-1")}
        )
        plan = plan_host(wish, found)
        assert [step.title for step in plan.steps] == [
            f"fabric manager {NEW} is installed",
            "nvidia-fabricmanager is enabled and runs",
        ]
        shell = plan.steps[0].commands[0].shell
        assert shell.index("systemctl stop nvidia-fabricmanager") < shell.rindex("patiently apt")
        assert plan.steps[0].disruptive

    @pytest.mark.parametrize(
        "service",
        [
            Service(load="loaded", active="failed", enabled="enabled"),
            Service(load="loaded", active="active", enabled="disabled"),
            Service(load="not-found", active="inactive", enabled=""),
        ],
    )
    def test_service_that_does_not_run_or_would_not_after_a_boot(self, service: Service) -> None:
        wish = wanted("hgx-h100")
        for unit in ("nvidia-persistenced", "nvidia-fabricmanager"):
            found = conformed(wish, "hgx-h100")
            services = {**(found.services or {}), f"{unit}.service": service}
            plan = plan_host(wish, found.model_copy(update={"services": services}))
            assert [step.title for step in plan.steps] == [f"{unit} is enabled and runs"]

    def test_static_unit_counts_as_enabled(self) -> None:
        wish = wanted("l40s")
        static = Service(load="loaded", active="active", enabled="static")
        found = conformed(wish, "l40s", services={"nvidia-persistenced.service": static})
        assert plan_host(wish, found).steps == ()


class TestLibraries:
    def test_other_release_is_linked_and_the_old_one_stays(self) -> None:
        wish = wanted("l40s", cuda="13.0")
        found = conformed(wish, "l40s", cuda=Cuda(link="/usr/local/cuda-12.9", toolkits=("12.9",)))
        (step,) = plan_host(wish, found).steps
        assert step.title == "/usr/local/cuda is /usr/local/cuda-13.0"
        assert step.why == "it is /usr/local/cuda-12.9"
        assert step.disruptive

    def test_cudnn_of_the_other_major_may_go(self) -> None:
        wish = wanted("l40s", cuda="13.0")
        found = conformed(wish, "l40s")
        packages = {
            name: one for name, one in (found.packages or {}).items() if "cudnn" not in name
        }
        packages["libcudnn9-cuda-12"] = Package(version="9.20.0.48-1", state="ii", held=False)
        (step,) = plan_host(wish, found.model_copy(update={"packages": packages})).steps
        assert step.layer == "cudnn"
        assert step.disruptive
        assert "may_go=libcudnn9-cuda-12\n" in step.commands[0].shell

    def test_new_library_disturbs_nobody_but_another_version_does(self) -> None:
        wish = wanted("l40s")
        found = conformed(wish, "l40s")
        missing = changed(found, libnccl2="")
        older = changed(found, libnccl2="2.29.7-1+cuda13.0")
        assert disruptive(wish, found.model_copy(update={"packages": missing})) == []
        assert disruptive(wish, found.model_copy(update={"packages": older})) == [
            "NCCL 2.30.7 is installed"
        ]

    @pytest.mark.parametrize("shared", [True, False])
    def test_loader_path_only_when_asked(self, shared: bool) -> None:
        for text in (cuda.profile_text(shared), cuda.services_text(shared)):
            assert ("LD_LIBRARY_PATH" in text) is shared
            assert "/usr/local/cuda/bin" in text


class TestEnvironment:
    def env(self, name: str, **values: Any) -> Environment:
        base: dict[str, Any] = {
            "id": name,
            "current": False,
            "complete": True,
            "manifest": "d" * 64,
            "found": "d" * 64,
            "in_use": False,
            "wheels": {"torch": "2.13.0+cpu", "numpy": "2.4.6"},
        }
        return Environment(**{**base, **values})

    def wish(self) -> Wanted:
        stack = solved("none", torch_build="cpu")
        stack = stack.model_copy(update={"environment": environment(id="new")})
        return Wanted(host="h1", spec=NodeSpec(), stack=stack)

    @pytest.mark.parametrize(
        ("there", "steps"),
        [
            ((), ["built", "switched"]),
            ((("new", {"current": True}),), []),
            ((("new", {}),), ["switched"]),
            ((("new", {"current": True, "complete": False, "manifest": ""}),), ["built"]),
            ((("new", {"current": True, "found": "e" * 64}),), ["built"]),
            ((("old", {"current": True}),), ["built", "switched"]),
            ((("old", {}), ("new", {"current": True})), []),
            ((("old", {}), ("older", {}), ("new", {"current": True})), ["removed"]),
            ((("old", {}), ("older", {"in_use": True}), ("new", {"current": True})), []),
            ((("a", {}), ("b", {}), ("c", {"current": True})), ["built", "switched", "removed"]),
        ],
    )
    def test_states(self, there: tuple[Any, ...], steps: list[str]) -> None:
        environments = tuple(self.env(name, **values) for name, values in there)
        said = titles(torch_env, self.wish(), facts("none", environments=environments))
        words = {"is built": "built", "is environment": "switched", "are gone": "removed"}
        assert [word for title in said for key, word in words.items() if key in title] == steps

    def test_names_what_is_damaged(self) -> None:
        bad = self.env("new", current=True, found="e" * 64, wheels={"torch": "2.12.0", "six": "1"})
        (step,) = torch_env.steps(self.wish(), facts("none", environments=(bad,)))
        assert step.why == "removed: numpy; changed: torch 2.12.0; added: six"

    @pytest.mark.parametrize("in_use", [True, False])
    def test_a_current_one_is_not_replaced_under_its_users(self, in_use: bool) -> None:
        wish = self.wish()
        bad = self.env("new", current=True, found="e" * 64, in_use=in_use)
        (repair,) = torch_env.steps(wish, facts("none", environments=(bad,)))
        assert repair.disruptive is in_use
        other = self.env("old", current=True, in_use=in_use)
        build, switch = torch_env.steps(wish, facts("none", environments=(other,)))
        assert not build.disruptive
        assert switch.disruptive is in_use

    @pytest.mark.parametrize(
        ("previous", "gone"), [("b", "a, c"), ("", "b, c"), ("not-there", "b, c")]
    )
    def test_one_previous_stays(self, previous: str, gone: str) -> None:
        there = (*(self.env(name) for name in "abc"), self.env("new", current=True))
        state = {"environment_previous": previous} if previous else {}
        found = facts("none", environments=there, state=state)
        (step,) = torch_env.steps(self.wish(), found)
        assert step.title == f"old environments are gone: {gone}"

    def test_places_of_the_spec_reach_pip_and_uv_quoted(self) -> None:
        spec = NodeSpec(proxy="http://proxy:3128", ca_bundle="/etc/ssl/site.pem")
        stack = solved("none", torch_build="cpu").model_copy(
            update={
                "environment": environment(
                    index="http://mirror/simple",
                    torch_index="http://mirror/whl/cpu",
                    find_links=("/srv/wheels", "http://mirror/x/"),
                )
            }
        )
        build = torch_env.steps(Wanted(host="h1", spec=spec, stack=stack), facts("none"))[0]
        (command,) = build.commands
        for line in (
            "HTTPS_PROXY=http://proxy:3128",
            "SSL_CERT_FILE=/etc/ssl/site.pem",
            "UV_DEFAULT_INDEX=http://mirror/simple",
            "UV_INDEX=http://mirror/whl/cpu",
            "UV_FIND_LINKS=/srv/wheels,http://mirror/x/",
            "PIP_FIND_LINKS='/srv/wheels http://mirror/x/'",
        ):
            assert f"{line}\n" in command.shell
        assert "--require-hashes" in command.shell
        assert command.stdin.count("--hash=sha256:") == 2


class TestExpected:
    def test_a_gpu_that_leaves_the_bus_does_not_become_normal(self) -> None:
        wish = wanted("hgx-h100")
        found = conformed(wish, "hgx-h100")
        assert found.pci is not None
        seven = found.model_copy(update={"pci": found.pci[1:]})
        plan = plan_host(wish, seven)
        assert plan.steps == ()
        assert any("7 GPUs on the PCI bus, 8 expected" in text for text in plan.warnings)

    def test_the_spec_says_how_many_there_are(self) -> None:
        wish = wanted("hgx-h100", gpus=7)
        assert expected.document(wish, facts("hgx-h100"))["gpus"] == 7

    def test_keeps_the_stack_before_for_a_rollback(self) -> None:
        wish = wanted("l40s")
        found = conformed(wish, "l40s")
        old = found.model_copy(update={"state": {**(found.state or {}), "stack": "0" * 12}})
        (step,) = plan_host(wish, old).steps
        assert step.layer == "expected"
        assert "record stack_previous" in step.commands[2].shell
        assert "before=000000000000\n" in step.commands[3].shell

    def test_a_hostile_count_in_the_state_counts_nothing(self) -> None:
        wish = wanted("l40s")
        for text in ("99999", "-3", "8; rm -rf /", "\u0663"):
            assert expected.document(wish, facts("l40s", state={"gpus": text}))["gpus"] == 2


HOSTILE = "x'; touch /tmp/pwned; echo '$(id)`id`"


def test_hostile_values_stay_values() -> None:
    """Names in a lock or facts that carry shell: every one ends up quoted."""
    wish = wanted("l40s")
    stack = wish.stack
    assert stack.driver is not None
    assert stack.environment is not None
    bad = stack.model_copy(
        update={
            "driver": stack.driver.model_copy(
                update={
                    "version": HOSTILE,
                    "packages": {HOSTILE: PackagePin(version=HOSTILE, size=1)},
                    "pinning": {HOSTILE + "2": PackagePin(version=HOSTILE, size=1)},
                }
            ),
            "environment": stack.environment.model_copy(
                update={"id": HOSTILE, "uv": HOSTILE, "index": HOSTILE, "find_links": (HOSTILE,)}
            ),
        }
    )
    held = {HOSTILE: Package(version="1", state="hi", held=True)}
    found = facts("l40s", packages=held, state={"owed_hold": HOSTILE, "stack": HOSTILE})
    plan = plan_host(wish.model_copy(update={"stack": bad}), found)
    seen = 0
    for step in plan.steps:
        for command in step.commands:
            done = subprocess.run(
                ["sh", "-n"], input=command.shell, text=True, capture_output=True, check=False
            )
            assert done.returncode == 0, (step.title, done.stderr)
            # As shlex.quote writes it between its quotes; anything else would be read as shell.
            quoted = HOSTILE.replace("'", "'\"'\"'")
            assert "pwned" not in command.shell.replace(quoted, ""), step.title
            seen += quoted in command.shell
    assert seen > 3
