"""OpenSSH's own files, read as OpenSSH reads them: its programs are the reference."""

import shutil
import subprocess
from pathlib import Path

import pytest

from deploy.fleet import ssh_config as module
from deploy.fleet.errors import WrongInput
from deploy.fleet.inventory import named_hosts
from deploy.fleet.known_hosts import known_hosts
from deploy.fleet.ssh_config import Indexed, jump_of, ssh_config

pytestmark = pytest.mark.skipif(not shutil.which("ssh"), reason="openssh-client is not installed")

CONFIG = """
User first
Host gpu1
    HostName 10.0.0.1
    Port 2201
Host gpu2 gpu3
    HostName 10.0.0.%h
    User second
Host gpu? !gpu4
    IdentityFile ~/.ssh/gpus
    ConnectTimeout 7
Host gpu4
    HostName 10.0.0.4
    ProxyJump bastion
Host gpu1
    User late
    Port 9
Host *
    ServerAliveInterval 15
"""
KEYS = ("hostname", "user", "port", "connecttimeout", "serveraliveinterval", "proxyjump")


@pytest.mark.parametrize("name", ["gpu1", "gpu2", "gpu3", "gpu4", "gpu5", "other", "gpu10"])
def test_configuration_means_what_ssh_says(tmp_path: Path, name: str) -> None:
    path = tmp_path / "config"
    path.write_text(CONFIG)
    said = subprocess.run(
        ["ssh", "-G", "-F", path, name], capture_output=True, text=True, check=True
    ).stdout
    theirs = dict(line.partition(" ")[::2] for line in said.splitlines())
    ours = ssh_config(str(path)).lookup(name)
    for key in KEYS:
        if key in ours:
            assert ours[key] == theirs[key], key
    assert ours.get("user") == theirs["user"]
    assert jump_of(str(path), name) == theirs.get("proxyjump", "")
    assert ours["stricthostkeychecking"] == "yes"  # ssh would ask; over a fleet nobody answers


def test_the_systems_configuration_comes_after_the_users(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "user").write_text("Host a\n  User mine\n")
    (tmp_path / "system").write_text("Host *\n  User theirs\n  Port 2222\n")
    monkeypatch.setattr(module, "USER", str(tmp_path / "user"))
    monkeypatch.setattr(module, "SYSTEM", str(tmp_path / "system"))
    both = ssh_config.__wrapped__(None)
    assert isinstance(both, Indexed)
    assert (both.lookup("a")["user"], both.lookup("a")["port"]) == ("mine", "2222")
    assert both.lookup("b")["user"] == "theirs"
    monkeypatch.setattr(module, "USER", str(tmp_path / "nowhere"))
    assert ssh_config.__wrapped__(None).lookup("b")["user"] == "theirs"
    (tmp_path / "system").write_text("Host *\n  User theirs\ngarbage\n")
    assert "user" not in ssh_config.__wrapped__(None).lookup("b")


def test_known_hosts_of_user_and_system_count() -> None:
    files = ssh_config(None).lookup("x")["userknownhostsfile"].split()
    assert files[0].endswith("/.ssh/known_hosts")
    assert "/etc/ssh/ssh_known_hosts" in files


def test_a_broken_configuration_is_wrong_input(tmp_path: Path) -> None:
    path = tmp_path / "config"
    path.write_text("garbage\n")
    with pytest.raises(WrongInput) as caught:
        named_hosts("gpu[1-3]", {"ssh_config_file": str(path)})
    assert len(caught.value.faults) == 1
    assert "cannot be read" in str(caught.value)


def test_two_names_for_one_machine_by_configuration(tmp_path: Path) -> None:
    path = tmp_path / "config"
    path.write_text("Host a b\n  HostName 10.0.0.1\n")
    with pytest.raises(WrongInput, match=r"b: ssh_hostname: leads to 10\.0\.0\.1 port 22"):
        named_hosts("a,b", {"ssh_config_file": str(path)})


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Public keys as known_hosts holds them."""
    found = []
    place = tmp_path_factory.mktemp("keys")
    for kind, bits in (("ed25519", "256"), ("ecdsa", "256"), ("ecdsa", "384")):
        path = place / f"{kind}{bits}"
        words = ["ssh-keygen", "-q", "-t", kind, "-b", bits, "-N", "", "-f", str(path)]
        subprocess.run(words, check=True)
        found.append(" ".join(path.with_suffix(".pub").read_text().split()[:2]))
    return found


def types(path: Path, name: str) -> list[str]:
    found = known_hosts((str(path),)).lookup(name)
    return sorted(found.keys()) if found else []


def test_hashed_and_plain_names(tmp_path: Path, keys: list[str]) -> None:
    path = tmp_path / "known_hosts"
    path.write_text(f"gpu1,10.0.0.1 {keys[0]}\n[gpu1]:2222 {keys[1]}\ngpu1 {keys[2]}\n# x\n\n")
    expected = {
        name: types(path, name) for name in ("gpu1", "10.0.0.1", "[gpu1]:2222", "gpu2", "[gpu1]:1")
    }
    assert expected == {
        "gpu1": ["ecdsa-sha2-nistp384", "ssh-ed25519"],
        "10.0.0.1": ["ssh-ed25519"],
        "[gpu1]:2222": ["ecdsa-sha2-nistp256"],
        "gpu2": [],
        "[gpu1]:1": [],
    }
    subprocess.run(["ssh-keygen", "-q", "-H", "-f", path], check=True, capture_output=True)
    assert "gpu1" not in path.read_text()
    assert {name: types(path, name) for name in expected} == expected


def test_patterns_and_revoked_keys(tmp_path: Path, keys: list[str]) -> None:
    path = tmp_path / "known_hosts"
    path.write_text(
        f"gpu*,!gpu9 {keys[0]}\n@revoked * {keys[1]}\ngpu1 {keys[1]}\n@cert-authority * {keys[2]}\n"
    )
    assert types(path, "gpu1") == ["ssh-ed25519"]
    assert types(path, "gpu9") == []


def test_damaged_lines_are_no_keys(tmp_path: Path, keys: list[str]) -> None:
    path = tmp_path / "known_hosts"
    path.write_text(
        f"gpu1\ngpu1 ssh-ed25519\ngpu1 ssh-ed25519 !!!\ngpu1 ssh-ed25519 AAAA\n|1|x|y {keys[0]}\n"
        f"gpu1 ssh-unheard-of AAAAB3NzaC1yc2E=\ngpu1 {keys[0]}\n"
    )
    assert types(path, "gpu1") == ["ssh-ed25519"]
    assert types(tmp_path / "nowhere", "gpu1") == []


def test_a_file_that_changes_is_read_again(tmp_path: Path, keys: list[str]) -> None:
    path = tmp_path / "known_hosts"
    path.write_text("")
    assert types(path, "gpu1") == []
    path.write_text(f"gpu1 {keys[0]}\n")
    assert types(path, "gpu1") == ["ssh-ed25519"]
