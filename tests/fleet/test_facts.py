"""The probe on whole hosts: every fault of the simulated fleet shows in the facts."""

import json
import subprocess
from collections.abc import Callable
from typing import Any

import gevent
import pytest

from deploy.facts import NodeFacts
from deploy.fleet import reach
from deploy.fleet.inventory import named_hosts
from deploy.fleet.transport import connect
from tests.fleet.live import PYTHON, LiveFleet, Result, command

pytestmark = pytest.mark.fleet

EVERYBODY = "h100-01,l40s-01,v100-01,cpu-01"
Check = Callable[[Any], object]


def gpufleet(fleet: LiveFleet, nodes: str, *more: str) -> Result:
    config = str(fleet.ssh_config)
    return command(PYTHON, "-m", "deploy.cli", "facts", "-w", nodes, "--ssh-config", config, *more)


def facts_of(fleet: LiveFleet, nodes: str, *more: str) -> dict[str, NodeFacts]:
    said = gpufleet(fleet, nodes, *more, "--json")
    document = json.loads(said.out)
    hidden = document["failed"] or any(found["unknown"] for found in document["facts"].values())
    assert said.status == (4 if hidden else 0), said.err
    return {
        name: NodeFacts.model_validate_json(json.dumps(found))
        for name, found in document["facts"].items()
    }


@pytest.fixture(scope="module")
def bare(fleet: LiveFleet) -> dict[str, NodeFacts]:
    return facts_of(fleet, EVERYBODY)


def test_bare_hosts_are_known_wholly(fleet: LiveFleet, bare: dict[str, NodeFacts]) -> None:
    found = bare
    assert {name: facts.unknown for name, facts in found.items()} == {
        name: {} for name in EVERYBODY.split(",")
    }
    devices = {name: [device.device for device in facts.pci or ()] for name, facts in found.items()}
    assert devices == {
        "h100-01": ["2330"] * 8 + ["22a3"] * 4,
        "l40s-01": ["26b9"] * 2,
        "v100-01": ["1db5"] * 4,
        "cpu-01": [],
    }
    for name, facts in found.items():
        assert facts.root
        assert facts.boot_id == fleet.boot_id(name)
        assert facts.foreign == facts.gpu_users == facts.slurm_jobs == ()
        assert facts.modules is not None
        assert facts.modules.loaded_version == ""
        assert facts.services is not None


def test_they_are_printed_folded(fleet: LiveFleet) -> None:
    text = gpufleet(fleet, EVERYBODY).ok()
    assert "h100-01\n  system      Debian GNU/Linux 12 (bookworm) x86_64, in systemd-nspawn" in text
    assert "8x H100 SXM5 80GB" in text
    assert "l40s-01  like h100-01, but\n  GPUs        2x L40S" in text
    assert "4 of 4 hosts looked at" in text


FIRST = {
    "h100-01": ["nouveau", "gpu-lost:3", "nvml-hang"],
    "l40s-01": ["next-kernel", "foreign-vfio", "vgpu"],
    "v100-01": ["foreign-runfile", "busy:2", "slurm-busy:815"],
    "cpu-01": ["foreign-dgx", "held-package:curl", "apt-locked", "secure-boot", "login-noise"],
}
SECOND = {
    "h100-01": ["disk-full"],
    "l40s-01": ["hostile-os-release"],
    "v100-01": ["foreign-container"],
    "cpu-01": ["dpkg-interrupted", "readonly"],
}


def owners(facts: NodeFacts) -> list[str]:
    return [foreign.owner for foreign in facts.foreign or ()]


CHECKS: list[tuple[int, str, Check]] = [
    (0, "h100-01", lambda f: f.modules.nouveau_loaded),
    (0, "h100-01", lambda f: "nouveau" in {device.driver for device in f.pci}),
    (0, "h100-01", lambda f: f.pci[3].revision == "ff"),
    (0, "l40s-01", lambda f: f.kernel.next == f.kernel.running + "+next"),
    (0, "l40s-01", lambda f: owners(f) == ["vgpu", "vfio"]),
    (0, "v100-01", lambda f: owners(f) == ["runfile"]),
    (0, "v100-01", lambda f: f.modules.loaded_version == "570.133.20"),
    (0, "v100-01", lambda f: f.modules.loaded_flavour == "closed"),
    (0, "v100-01", lambda f: [user.user for user in f.gpu_users] == ["trainer"]),
    (0, "v100-01", lambda f: [(j.job, j.user) for j in f.slurm_jobs] == [("815", "trainer")]),
    (0, "cpu-01", lambda f: owners(f) == ["dgx-os"]),
    (0, "cpu-01", lambda f: "unattended-upgr" in f.dpkg.lock_holder),
    (0, "cpu-01", lambda f: f.packages["curl"].held),
    (0, "cpu-01", lambda f: f.secure_boot == "enabled"),
    (1, "h100-01", lambda f: f.disks["/opt"].available == 0),
    (1, "l40s-01", lambda f: "$(touch" in f.os.pretty_name),
    (1, "v100-01", lambda f: owners(f) == ["driver-container"]),
    (1, "cpu-01", lambda f: f.dpkg.interrupted and "libnvidia-ml1" in f.dpkg.broken),
    (1, "cpu-01", lambda f: f.disks["/opt"].read_only and f.disks["/usr"].read_only),
]


@pytest.fixture(scope="module")
def broken(fleet: LiveFleet) -> list[dict[str, NodeFacts]]:
    """Facts of the whole fleet under two sets of faults."""
    found = []
    for faults in (FIRST, SECOND):
        for node, kinds in faults.items():
            for kind in kinds:
                fleet.fault(node, kind)
        found.append(facts_of(fleet, EVERYBODY))
        owned = [node for node in faults if fleet.root(node, "test -e /tmp/owned").status == 0]
        fleet.restore()
        assert owned == []
    return found


@pytest.mark.parametrize(("scene", "node", "check"), CHECKS, ids=range(len(CHECKS)))
def test_every_fault_shows(
    broken: list[dict[str, NodeFacts]],
    bare: dict[str, NodeFacts],
    scene: int,
    node: str,
    check: Check,
) -> None:
    assert check(broken[scene][node])
    assert not check(bare[node])


def test_noise_and_a_driver_that_hangs_do_no_harm(broken: list[dict[str, NodeFacts]]) -> None:
    # Both drivers of others on this node bring a module and no nvidia-smi.
    tool = {"gpu_settings": "there is no such tool on this host"}
    for scene in broken:
        unknown = {name: facts.unknown for name, facts in scene.items() if facts.unknown}
        assert unknown == {"v100-01": tool}


def test_a_partitioned_gpu_is_named_by_slot(pristine: LiveFleet) -> None:
    driver = "/usr/local/lib/sim/make-module"
    kernel = pristine.ssh("h100-01", "uname -r").ok().strip()
    place = f"/lib/modules/{kernel}/updates/dkms"
    pristine.root("h100-01", f"{driver} 580.178.04 'Dual MIT/GPL' {place} && modprobe nvidia").ok()
    with pristine.broken("h100-01", "mig:1"):
        found = facts_of(pristine, "h100-01")["h100-01"]
    assert found.pci is not None
    assert found.mig == (found.pci[1].slot,)
    assert found.modules is not None
    assert found.modules.loaded_flavour == "open"
    assert [(m.version, m.flavour) for m in found.modules.installed] == [("580.178.04", "open")]
    assert [device.driver for device in found.pci[:8]] == ["nvidia"] * 8


def test_a_user_without_root_is_told_what_is_hidden(fleet: LiveFleet) -> None:
    node = "v100-01"
    keys = "install -d -o trainer ~trainer/.ssh && install -o trainer ~ops/.ssh/authorized_keys"
    fleet.root(node, f"{keys} ~trainer/.ssh/").ok()
    with fleet.broken(node, "foreign-runfile", "busy"):
        found = facts_of(fleet, node, "-l", "trainer")[node]
    assert not found.root
    assert "trainer" in found.unknown["root"]
    assert "sudo: a password is required" in found.unknown["root"]
    assert found.gpu_users is None
    assert "only root" in found.unknown["gpu_users"]
    assert found.os is not None
    assert found.modules is not None
    assert found.modules.loaded_version == "570.133.20"


@pytest.fixture
def asks(fleet: LiveFleet) -> str:
    """A node whose user `asks` may use sudo, with a password."""
    node = "l40s-01"
    fleet.root(
        node,
        "id asks || useradd -m -s /bin/bash asks; echo asks:canary-7391 | chpasswd; "
        "echo 'asks ALL=(ALL) ALL' > /etc/sudoers.d/asks; "
        "install -d -o asks ~asks/.ssh && install -o asks ~ops/.ssh/authorized_keys ~asks/.ssh/",
    ).ok()
    return node


def through_inventory(fleet: LiveFleet, tmp_path, node: str, **data: str) -> Result:  # type: ignore[no-untyped-def]
    values = {"ssh_config_file": str(fleet.ssh_config), "ssh_user": "asks", **data}
    path = tmp_path / "lab.py"
    path.write_text(f"gpus = [({node!r}, {values!r})]\n")
    return command(PYTHON, "-m", "deploy.cli", "facts", str(path), "--json")


def test_sudo_with_a_password(fleet: LiveFleet, asks: str, tmp_path) -> None:  # type: ignore[no-untyped-def]
    said = through_inventory(fleet, tmp_path, asks, _sudo_password="canary-7391")
    document = json.loads(said.ok())
    assert document["facts"][asks]["root"] is True
    assert document["facts"][asks]["unknown"] == {}
    assert "canary" not in said.out + said.err
    # A user who needs no password is not harmed by having one: it is not taken for input.
    said = through_inventory(fleet, tmp_path, asks, _sudo_password="canary-7391", ssh_user="ops")
    assert json.loads(said.ok())["facts"][asks]["root"] is True
    assert fleet.root(asks, "grep -r canary /var/log /tmp /run/log /home /root").status == 1


def test_commands_as_root_by_password(fleet: LiveFleet, asks: str) -> None:
    data = {"ssh_config_file": str(fleet.ssh_config), "ssh_user": "asks"}
    host = named_hosts(asks, {**data, "_sudo_password": "canary-7391"}).hosts[asks]
    connection = connect(host)
    result = connection.run("id -u; cat", stdin="input\n", root=True, timeout_s=20)
    assert (result.out, result.err, result.trouble) == ("0\ninput\n", "", "")
    assert connection.run("id -un", timeout_s=20).out == "asks\n"
    held = connection.hold("id -u; cat >/dev/null", root=True, timeout_s=20)
    assert (held.first_line, held.trouble) == ("0", "")
    # Nobody on the host can read the password or the command from the list of processes.
    everywhere = "cat /proc/[0-9]*/cmdline /proc/[0-9]*/environ | grep -a 'canar[y]'"
    assert fleet.root(asks, everywhere).status == 1
    held.close()
    connection.close()
    connection = connect(named_hosts(asks, data).hosts[asks])
    assert "asks could not become root (sudo: a password is required)" in (
        connection.run("id", root=True, timeout_s=20).trouble
    )
    assert "could not become root" in connection.hold("id", root=True, timeout_s=20).trouble
    connection.close()
    connection = connect(named_hosts(asks, {**data, "_sudo_password": "canary-no"}).hosts[asks])
    for trouble in (
        connection.run("id", root=True, timeout_s=20).trouble,
        connection.hold("id", root=True, timeout_s=20).trouble,
    ):
        assert trouble == "sudo did not take the password (_sudo_password in the inventory)"
    connection.close()


def test_sudo_with_a_wrong_password_or_none(fleet: LiveFleet, asks: str, tmp_path) -> None:  # type: ignore[no-untyped-def]
    said = through_inventory(fleet, tmp_path, asks, _sudo_password="canary-wrong")
    assert said.status == 4
    assert "sudo did not take the password" in json.loads(said.out)["failed"][asks]
    assert "canary" not in said.out + said.err
    said = through_inventory(fleet, tmp_path, asks)
    assert said.status == 4
    found = json.loads(said.out)["facts"][asks]
    assert "sudo: a password is required" in found["unknown"]["root"]


def test_a_host_that_vanishes_under_a_command_is_lost(
    fleet: LiveFleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No packet of it arrives any more, as after a power cut: nothing closes the connection."""
    monkeypatch.setattr(reach, "DEAD_AFTER_S", 3)
    node = "cpu-01"
    host = named_hosts(node, {"ssh_config_file": str(fleet.ssh_config)}).hosts[node]
    connection = connect(host)
    rule = ["INPUT", "-s", fleet.nodes[node], "-p", "tcp", "--sport", "22", "-j", "DROP"]
    cut = gevent.spawn_later(0.5, subprocess.run, ["iptables", "-I", *rule], check=True)
    try:
        result = connection.run("sleep 600", timeout_s=60)
    finally:
        cut.join()
        subprocess.run(["iptables", "-D", *rule], check=True)
    assert result.rc is None
    assert result.trouble.startswith("the connection was lost")
    connection.close()


def test_bad_hosts_cost_only_themselves(pristine: LiveFleet) -> None:
    pristine.fault("h100-01", "unreachable")
    pristine.fault("l40s-01", "login-flood")
    pristine.fault("v100-01", "slow-ssh:3")
    said = gpufleet(pristine, EVERYBODY, "--json")
    assert said.status == 4
    document = json.loads(said.out)
    assert set(document["facts"]) == {"v100-01", "cpu-01"}
    assert "no SSH server there (Connection refused)" in document["failed"]["h100-01"]
    assert "printed more than" in document["failed"]["l40s-01"]


def test_the_probe_changes_nothing(fleet: LiveFleet) -> None:
    """No file of the host is newer afterwards but the log of the login itself."""
    node = "cpu-01"
    facts_of(fleet, node)
    fleet.root(node, "sleep 1.1; touch /run/mark; sleep 0.1").ok()
    facts_of(fleet, node)
    newer = fleet.root(
        node,
        "find / /tmp /run /dev/shm -xdev -newer /run/mark "
        "! -path '/var/log/*' ! -path '/run/*' ! -path '/dev/pts*' -print",
    ).ok()
    places = set(newer.split()) - {"/tmp", "/dev/shm", "/run"}
    assert places == set()
    assert fleet.root(node, "ls -d /dev/shm/gpufleet-* /tmp/gpufleet-* /run/gpufleet-*").status != 0
