"""Our files, the package database and the Python environment on real nodes, damaged and mended."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator

import pytest

from deploy.apt import SOURCE
from deploy.fleet.places import SYSTEM
from deploy.layers import cuda, os_base, pins, repository
from tests.fleet import small_python
from tests.fleet.live import LiveFleet
from tests.fleet.small_python import Site
from tests.fleet.test_layers import DRIVER_ONLY, NEW, OLD, fresh, loaded, opened
from tests.fleet.thin import Node

pytestmark = pytest.mark.fleet

NOTHING_ELSE = {"driver": "none", "cuda": "none", "cudnn": "none", "nccl": "none"}
TORCH = {"torch": "2.13.0", "torch_build": "cpu", **NOTHING_ELSE}


@pytest.fixture(scope="module")
def whole(fleet: LiveFleet) -> Iterator[Node]:
    """One converged node without an environment, which every test leaves converged."""
    with opened(fleet, "l40s-01") as one:
        one.want(driver=NEW)
        one.converge()
        yield one


class TestOurFiles:
    PATHS = (
        os_base.NOUVEAU,
        os_base.UPGRADES,
        repository.KEYRING,
        SOURCE,
        pins.PATH,
        cuda.PROFILE,
        cuda.SERVICES,
        SYSTEM.expected,
    )

    def test_edited_ones_are_written_again_and_nothing_else_happens(self, whole: Node) -> None:
        before = whole.facts().files
        assert before is not None
        assert set(self.PATHS) <= set(before)
        whole.root("".join(f"echo '# edited' >>{path}; chmod 640 {path}\n" for path in self.PATHS))
        done = whole.converge()
        assert len(done) == len(self.PATHS)
        assert whole.facts().files == before

    def test_removed_ones_are_written_again(self, whole: Node) -> None:
        before = whole.facts().files
        whole.root(f"rm {' '.join(self.PATHS)}")
        whole.converge()
        after = whole.facts().files
        assert before is not None
        assert after is not None
        # Our nouveau file is not missed: the vendor's packages keep nouveau off by now.
        assert {path for path in before if path not in after} <= {os_base.NOUVEAU}

    def test_a_write_that_was_cut_short_changes_nothing(self, whole: Node) -> None:
        whole.root(f"echo '# edited' >>{pins.PATH}")
        (step,) = whole.plan().steps
        (command,) = step.commands
        cut = command.model_copy(update={"stdin": command.stdin[:40]})
        (ran,) = whole.run([step.model_copy(update={"commands": (cut,)})])
        assert ran.rc == 1
        assert "did not arrive whole; the old file stays" in ran.said
        assert whole.root(f"tail -n 1 {pins.PATH}").strip() == "# edited"
        assert (
            whole.root(f"ls -A {pins.PATH.rpartition('/')[0]} | grep -c tmp || true").strip() == "0"
        )
        whole.converge()

    def test_a_follow_up_that_failed_is_repeated(self, whole: Node) -> None:
        whole.root(f"rm -f {os_base.NOUVEAU}; echo 'options nouveau modeset=1' >{os_base.NOUVEAU}")
        (step,) = whole.plan().steps
        (command,) = step.commands
        breaking = command.shell.replace("update-initramfs -u -k all", "false")
        assert breaking != command.shell
        broken = command.model_copy(update={"shell": breaking})
        (ran,) = whole.run([step.model_copy(update={"commands": (broken,)})])
        assert ran.rc != 0
        (again,) = whole.plan().steps
        assert "did not finish" in again.why
        whole.converge()


class TestPaths:
    def test_login_shells_and_services_find_the_compiler(self, whole: Node) -> None:
        assert "release 13" in whole.live.ssh(whole.name, "bash -lc 'nvcc --version'").ok()
        said = whole.root("systemd-run --wait --pipe -q sh -c 'command -v nvcc; echo $PATH'")
        assert said.splitlines()[0] == "/usr/local/cuda/bin/nvcc"
        assert "/usr/bin" in said.splitlines()[1].split(":")
        assert "LD_LIBRARY_PATH" not in whole.live.ssh(whole.name, "bash -lc env").ok()

    def test_releases_stay_side_by_side(self, whole: Node) -> None:
        kept = whole.wanted
        whole.want(driver=NEW, cuda="12.9")
        whole.converge()
        facts = whole.facts().cuda
        assert facts is not None
        assert facts.link == "/usr/local/cuda-12.9"
        assert {"12.9", "13.0"} <= set(facts.toolkits)
        assert "auto" not in whole.root(
            "update-alternatives --query cuda | sed -n 's/^Status: //p'"
        )
        assert kept is not None
        whole.spec, whole.wanted = kept.spec, kept
        whole.converge()
        assert whole.facts().cuda.link == "/usr/local/cuda-13.0"


class TestApt:
    def test_a_plain_upgrade_leaves_the_locked_versions(self, fleet: LiveFleet) -> None:
        with fresh(fleet, "h100-01") as one:
            one.want(driver=OLD, cudnn="9.20.0.48", nccl="2.29.7", cuda="13.0")
            one.converge()
            one.root(
                "apt-get -q update; DEBIAN_FRONTEND=noninteractive apt-get -q -y -o "
                "APT::Get::Show-User-Simulation-Note=no upgrade"
            )
            assert one.titles() == []

    def test_waits_for_another_package_manager(self, whole: Node) -> None:
        whole.root("dpkg -r --force-depends nvidia-smi")
        whole.live.fault(whole.name, "apt-locked:8")
        began = time.monotonic()
        plan = whole.plan()
        assert any("package database is in use by" in text for text in plan.warnings)
        whole.converge()
        whole.live.heal(whole.name)
        assert time.monotonic() - began > 5

    def test_a_repository_that_somebody_else_configured_is_left(self, whole: Node) -> None:
        theirs = "/etc/apt/sources.list.d/cuda-debian12-x86_64.list"
        key = "/usr/share/keyrings/cuda-archive-keyring.asc"
        whole.root(
            f"cp {repository.KEYRING} {key}\n"
            f"echo 'deb [signed-by={key}] {whole.live.vendor_url}/ /' >{theirs}"
        )
        assert "Conflicting values" in whole.root("apt-get -q update 2>&1 || true")
        (step,) = whole.plan().steps
        assert step.title == "vendor repository is configured once"
        whole.converge()
        whole.root("apt-get -q update")
        whole.root(f"rm {theirs}")
        whole.converge()


def test_read_only_file_systems_block_with_their_names(fleet: LiveFleet) -> None:
    with fresh(fleet, "v100-01") as one:
        one.want(driver=NEW)
        with fleet.broken(one.name, "readonly"):
            blocked = one.plan().blocked
        assert blocked is not None
        assert "/usr" in blocked.reason
        assert "/var/lib" in blocked.reason


class TestDpkg:
    def test_killed_between_unpacking_and_configuring(self, fleet: LiveFleet) -> None:
        with fresh(fleet, "v100-01") as one:
            fleet.fault(one.name, "dpkg-interrupted")
            one.want(driver=NEW, **DRIVER_ONLY)
            plan = one.plan()
            assert plan.steps[0].title == "package database is whole"
            one.converge()
            assert loaded(one) == (NEW, "closed")

    @pytest.mark.parametrize(
        "moment",
        [
            "status half-installed libnvidia-ml1",  # some are new, most are old
            "status unpacked nvidia-smi",  # nearly all are unpacked, none is configured
            "status half-configured nvidia-kernel-dkms",  # its module is being built
        ],
    )
    def test_killed_anywhere_in_a_driver_change(self, fleet: LiveFleet, moment: str) -> None:
        with fresh(fleet, "v100-01") as one:
            one.want(driver=OLD, **DRIVER_ONLY)
            one.converge()
            one.want(driver=NEW, **DRIVER_ONLY)
            one.root(
                ": >/var/log/dpkg.log\n"
                'systemd-run -q --unit killer sh -c "until grep -q '
                f"'{moment}' /var/log/dpkg.log; do sleep 0.01; done; "
                'kill -9 \\$(pgrep -x apt-get) \\$(pgrep -x dpkg)"'
            )
            done = one.run(one.plan().steps)
            assert done[-1].rc != 0, "the kill came too late"
            assert done[-1].step.title == f"driver {NEW} (closed modules) is installed"
            one.converge()
            assert loaded(one) == (NEW, "closed")

    @pytest.mark.parametrize("state", ["half-installed", "unpacked"])
    def test_killed_when_the_new_version_was_noted_but_not_all_of_it_is_there(
        self, fleet: LiveFleet, state: str
    ) -> None:
        # dpkg leaves this for some milliseconds only, so that killing it there is a matter of luck.
        with fresh(fleet, "v100-01") as one:
            one.want(driver=OLD, **DRIVER_ONLY)
            one.converge()
            one.want(driver=NEW, **DRIVER_ONLY)
            one.root(
                f"cd /tmp; apt-get -q update; apt-get -q download libnvidia-ml1={NEW}-1\n"
                "dpkg --unpack --force-depends --force-breaks libnvidia-ml1_*.deb\n"
                "sed -i '/^Package: libnvidia-ml1$/,/^$/s/^Status: .*/Status: install reinstreq "
                f"{state}/' /var/lib/dpkg/status"
            )
            assert f"install reinstreq {state}" in one.root("dpkg -s libnvidia-ml1")
            one.converge()
            assert loaded(one) == (NEW, "closed")
            assert "install ok installed" in one.root("dpkg -s libnvidia-ml1")


@pytest.fixture(scope="module")
def torch(fleet: LiveFleet) -> Iterator[Node]:
    """A node with nothing but an environment, which every test leaves converged."""
    with opened(fleet, "cpu-01") as one:
        one.want(**TORCH)
        one.converge()
        yield one


def current(one: Node) -> str:
    return one.root("readlink /opt/gpufleet/env").strip().rpartition("/")[2]


class TestEnvironment:
    PYTHON = "/opt/gpufleet/env/bin/python"

    def test_everybody_may_use_it_and_nobody_but_root_may_change_it(self, torch: Node) -> None:
        program = f'{self.PYTHON} -c "import torch; print(torch.__version__)"'
        said = torch.root(f"su trainer -s /bin/sh -c '{program}'")
        assert said.strip() == "2.13.0+cpu"
        assert torch.root("find /opt/gpufleet ! -type l -perm /022 | head -n 3") == ""
        assert torch.titles() == []  # the imports above changed nothing that counts
        assert (
            torch.root("ls -A /opt/gpufleet /opt/gpufleet/envs | grep -c cache || true").strip()
            == "0"
        )

    def test_a_removed_wheel_is_put_back_by_building_anew(self, torch: Node) -> None:
        torch.root("rm -rf /opt/gpufleet/env/lib/python3*/site-packages/numpy*")
        build = torch.plan().steps[0]
        assert build.why == "removed: numpy"
        torch.converge()
        torch.root(f"{self.PYTHON} -c 'import numpy'")
        assert torch.root("ls /opt/gpufleet/envs").split() == [current(torch)]

    def test_one_in_use_steps_aside_and_goes_later(self, torch: Node) -> None:
        torch.root(
            "systemd-run -q --unit user-of-torch --uid trainer "
            f"{self.PYTHON} -c 'import torch, time; print(1, flush=True); time.sleep(600)'\n"
            "for i in $(seq 100); do grep -lsF envs /proc/$(systemctl show -P MainPID "
            "user-of-torch)/maps && break; sleep 0.2; done"
        )
        torch.root("rm -rf /opt/gpufleet/env/lib/python3*/site-packages/sympy*")
        plan = torch.plan()
        assert plan.steps[0].disruptive
        done = torch.run(plan.steps)
        assert done[-1].rc == 0, done[-1].said
        assert torch.titles() == []
        assert len(torch.root("ls /opt/gpufleet/envs").split()) == 2
        torch.root("systemctl stop user-of-torch")
        (step,) = torch.plan().steps
        assert step.title.startswith("old environments are gone")
        torch.converge()
        assert torch.root("ls /opt/gpufleet/envs").split() == [current(torch)]

    def test_a_failed_build_harms_nothing_and_leaves_nothing(self, torch: Node) -> None:
        before, kept = current(torch), torch.wanted
        wish = torch.want(**TORCH, extras=["six"])
        environment = wish.stack.environment
        assert environment is not None
        wrong = tuple(
            line.split(" --hash=")[0] + f" --hash=sha256:{'0' * 64}"
            if line.startswith("six==")
            else line
            for line in environment.requirements
        )
        bad = environment.model_copy(update={"requirements": wrong, "id": "bad0bad0bad0"})
        torch.wanted = wish.model_copy(
            update={"stack": wish.stack.model_copy(update={"environment": bad})}
        )
        done = torch.run(torch.plan().steps)
        assert done[-1].rc != 0
        assert "hash" in done[-1].said.lower()
        assert "the locked wheel six==" in done[-1].said
        assert "gpufleet lock INVENTORY --upgrade extras" in done[-1].said
        assert current(torch) == before
        torch.root(f"{self.PYTHON} -c 'import torch'")
        assert torch.root("ls -A /opt/gpufleet/envs").split() == [".lock", before]
        assert kept is not None
        torch.spec, torch.wanted = kept.spec, kept

    def test_a_full_disk_harms_nothing(self, torch: Node) -> None:
        before, kept = current(torch), torch.wanted
        torch.root("mkdir -p /var/tmp/full; mount -t tmpfs -o size=300m none /var/tmp/full")
        try:
            torch.want(**TORCH, prefix="/var/tmp/full/gpufleet")
            done = torch.run(torch.plan().steps)
            assert done[-1].rc != 0
            assert "No space left" in done[-1].said
            left = torch.root("ls -A /var/tmp/full/gpufleet /var/tmp/full/gpufleet/envs")
            assert "build" not in left
            assert "cache" not in left  # a full disk is not kept full for the next try
        finally:
            torch.root("umount /var/tmp/full")
        assert kept is not None
        torch.spec, torch.wanted = kept.spec, kept
        assert torch.titles() == []
        assert current(torch) == before

    def test_switches_and_keeps_one_to_go_back_to(self, torch: Node) -> None:
        ids = [current(torch)]
        for extra in ("six", "packaging"):
            torch.want(**TORCH, extras=[extra])
            torch.converge()
            ids.append(current(torch))
        assert len(set(ids)) == 3
        assert sorted(torch.root("ls /opt/gpufleet/envs").split()) == sorted(ids[1:])
        assert torch.facts().state["environment_previous"] == ids[1]
        torch.want(**TORCH, extras=["six"])
        plan = torch.plan()
        assert not [step for step in plan.steps if step.title.endswith("is built")]
        torch.converge()
        assert current(torch) == ids[1]

    def test_waits_for_a_build_whose_controller_has_died(self, torch: Node) -> None:
        torch.root(
            "rm -rf /opt/gpufleet/env/lib/python3*/site-packages/mpmath*\n"
            "mkdir -p /opt/gpufleet/envs/.build-dead.1/lib\n"
            "systemd-run -q --unit orphan flock /opt/gpufleet/envs/.lock sleep 4"
        )
        done = torch.converge()
        assert "waiting for another build on this host" in done[0].said
        assert ".build-dead.1" not in torch.root("ls -A /opt/gpufleet/envs").split()


OLD_PYTHON = """\
rm /usr/bin/python3
cat >/usr/bin/python3 <<'EOF'
#!/bin/sh
case "$*" in -V) echo Python 3.9.2 ;; *) exec /usr/bin/python3.11 "$@" ;; esac
EOF
chmod 755 /usr/bin/python3
install -D /dev/null /usr/lib/python3.9/ensurepip/__init__.py
install -D /dev/null /usr/include/python3.9/Python.h
"""
"""The node's python3 says that it is one which no torch of today has wheels for."""


NEW_PYTHON = "ln -sf python3.11 /usr/bin/python3"


@pytest.fixture(scope="module")
def site(torch: Node, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A list of Pythons that a node with an old one of its own can reach."""
    with small_python.site(torch.live, torch.name, tmp_path_factory.mktemp("site")) as made:
        torch.root(OLD_PYTHON)
        yield made
        torch.root(NEW_PYTHON)


class TestOtherKinds:
    """A Python that uv brings, and venv in uv's place, one after the other on one node."""

    USER = "systemd-run -q --unit user-of-python --uid trainer /opt/gpufleet/env/bin/python -c "

    def test_a_python_of_another_hash_is_refused(self, torch: Node, site: Site) -> None:
        before, kept = current(torch), torch.wanted
        url = site.offer("0" * 64)
        torch.want(**TORCH, python="3.11", python_downloads=url)
        plan = torch.plan()
        assert plan.steps[0].title == "Python 3.11.2 is installed below /opt/gpufleet/python"
        assert plan.steps[0].why == "the host's own is 3.9.2"
        done = torch.run(plan.steps)
        assert done[-1].rc == 1
        said = done[-1].said
        true = hashlib.sha256((site.folder / small_python.ARCHIVE).read_bytes()).hexdigest()
        assert f"{site.url}/{small_python.ARCHIVE}" in said
        assert "0" * 64 in said
        assert true in said
        assert "gpufleet lock INVENTORY --upgrade python" in said
        assert current(torch) == before
        assert torch.root("ls -A /opt/gpufleet/python").strip() == ""
        assert kept is not None
        torch.spec, torch.wanted = kept.spec, kept

    def test_a_python_that_the_distribution_lacks_is_brought(self, torch: Node, site: Site) -> None:
        before = current(torch)
        more = {"extras": ["tiny"], "find_links": [site.publish("tiny", "1.0")]}
        wish = torch.want(**TORCH, **more, python="3.11", python_downloads=site.offer())
        site.publish("tiny", "1.1")  # after it was locked
        assert wish.stack.environment is not None
        assert wish.stack.environment.managed_python is not None
        torch.converge()
        assert current(torch) != before
        mine = next(one for one in torch.facts().environments or () if one.current)
        assert mine.wheels["tiny"] == "1.0"
        (build,) = torch.facts().pythons or ()
        said = torch.root(f"{TestEnvironment.PYTHON} -c 'import sys; print(sys.base_prefix)'")
        assert said.strip().startswith(f"/opt/gpufleet/python/{build.name}/")
        assert torch.root("find /opt/gpufleet ! -type l -perm /022 | head -n 3") == ""
        assert torch.titles() == []
        home = f"/opt/gpufleet/python/{build.name}/{small_python.KEY}"
        torch.root(f"rm {home}/lib/python3.11/json/__init__.py")
        (step,) = torch.plan().steps
        assert step.why == "files differ from those that were installed"
        torch.converge()
        torch.root(f"{TestEnvironment.PYTHON} -c 'import torch, json'")

    def test_venv_in_uvs_place_and_running_processes_keep_their_python(
        self, torch: Node, site: Site
    ) -> None:
        torch.root(f"{self.USER} 'import time; time.sleep(600)'")
        torch.root(NEW_PYTHON)
        first = torch.want(**TORCH).stack.environment
        second = torch.want(**TORCH, env="venv").stack.environment
        assert first is not None
        assert second is not None
        assert first.id != second.id
        assert first.requirements == second.requirements
        torch.converge()
        assert torch.root("cat /opt/gpufleet/env/pyvenv.cfg").count("build") == 0
        program = "/opt/gpufleet/env/bin/torchrun --help | head -n 1"
        assert "usage: torchrun" in torch.root(f"su trainer -s /bin/sh -c '{program}'")
        locked = {line.partition("==")[0] for line in second.requirements}
        mine = next(one for one in torch.facts().environments or () if one.current)
        assert set(mine.wheels) == locked
        torch.root("systemctl is-active user-of-python")

    def test_a_python_goes_when_nothing_uses_it(self, torch: Node, site: Site) -> None:
        torch.want(**TORCH)
        torch.converge()
        assert len(torch.facts().pythons or ()) == 1  # a process still runs on it
        torch.root("systemctl stop user-of-python")
        (step,) = torch.plan().steps
        assert step.title.startswith("unused Pythons are gone: cpython-3.11.2-linux-x86_64-gnu.")
        torch.converge()
        assert torch.root("ls -A /opt/gpufleet/python").strip() == ""
