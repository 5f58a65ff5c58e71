"""Inventories: pyinfra's meaning kept, and everything that is wrong said at once."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from deploy.fleet.errors import WrongInput
from deploy.fleet.inventory import Fleet, named_hosts, read_inventory
from deploy.fleet.names import fold, node_names, split_list


@pytest.fixture
def write(tmp_path: Path):  # type: ignore[no-untyped-def]
    def write(text: str, **group_data: str) -> str:
        for name, content in group_data.items():
            (tmp_path / "group_data").mkdir(exist_ok=True)
            (tmp_path / "group_data" / f"{name}.py").write_text(content)
        (tmp_path / "lab.py").write_text(text)
        return str(tmp_path / "lab.py")

    return write


def faults(path: str) -> list[str]:
    with pytest.raises(WrongInput) as caught:
        read_inventory(path)
    return [str(fault).replace(path, "FILE") for fault in caught.value.faults]


def test_hosts_groups_and_wishes(write) -> None:  # type: ignore[no-untyped-def]
    fleet = read_inventory(
        write(
            "gpus = (['gpu001', ('gpu002', {'driver': '580', 'ssh_port': 2222})],"
            " {'ssh_user': 'ops'})\n"
            "login = [('login', {'_sudo': False})]\n",
            gpus="driver = 'none'\nnccl = '2'\n",
            all="torch_build = 'cpu'\n",
        )
    )
    assert list(fleet.hosts) == ["gpu001", "gpu002", "login"]
    first, second, login = fleet.hosts.values()
    assert (first.spec.driver, second.spec.driver, login.spec.driver) == ("none", "580", None)
    assert first.spec.nccl == "2"
    assert {host.spec.torch_build for host in fleet.hosts.values()} == {"cpu"}
    assert second.data == {
        "ssh_user": "ops",
        "ssh_port": 2222,
        "ssh_strict_host_key_checking": "yes",
    }
    assert set(first.groups) == {"gpus", "lab"}
    assert login.data["_sudo"] is False


def test_the_meaning_is_pyinfras_own(write) -> None:  # type: ignore[no-untyped-def]
    """The same file through pyinfra's command: the same hosts, groups and values."""
    path = write(
        "all = (['a', 'b', 'c'], {'nccl': '2'})\n"
        "one = (['a', ('b', {'driver': '580'})], {'driver': '595', 'gpus': 8})\n"
        "two = (['c'], {'gpus': 4})\n",
        two="torch = '2.13.0'\n",
    )
    fleet = read_inventory(path)
    said = subprocess.run(
        [Path(sys.executable).with_name("pyinfra"), "--json", path, "debug-inventory"],
        capture_output=True,
        text=True,
        check=True,
    )
    theirs = {host["name"]: host for host in json.loads(said.stdout)}
    for name, host in fleet.hosts.items():
        wishes = host.spec.model_dump(exclude_unset=True)
        assert wishes == theirs[name]["data"], name
        assert set(host.groups) == set(theirs[name]["groups"]), name


def test_a_password_is_in_no_repr(write) -> None:  # type: ignore[no-untyped-def]
    fleet = read_inventory(write("g = [('a', {'ssh_password': 'canary-1'})]"))
    assert "canary-1" not in repr(fleet)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("g = [('a', {'drivr': '580'})]", ["a: drivr: unknown key; did you mean driver?"]),
        (
            "g = [('a', {'ssh_prt': 22})]",
            ["a: ssh_prt: unknown connection key; did you mean ssh_port?"],
        ),
        ("g = [('a', {'driver': 580})]", ["a: driver: found 580: input should be a valid string"]),
        ("g = [('a', {'ssh_port': '22'})]", ["a: ssh_port: found '22': wanted 1 to 65535"]),
        ("g = [('a', {'ssh_port': True})]", ["a: ssh_port: found True: wanted 1 to 65535"]),
        (
            "g = [('a', {'ssh_user': 'x; rm -rf /'})]",
            ["a: ssh_user: found 'x; rm -rf /': wanted a login name"],
        ),
        (
            "g = [('a', {'ssh_hostname': '$(id)'})]",
            ["a: ssh_hostname: found '$(id)': wanted a host name or address"],
        ),
        (
            "g = [('a', {'ssh_key': '`id`'})]",
            ["a: ssh_key: found '`id`': wanted a file name without shell metacharacters"],
        ),
        (
            "g = [('a', {'ssh_password': 7})]",
            ["a: ssh_password: wanted printable characters (value not shown)"],
        ),
        (
            "g = [('a', {'_su_user': 'root'})]",
            ["a: _su_user: has no effect: root comes by _sudo, _sudo_password or _doas"],
        ),
        (
            "g = [('a', {'_sudo': False, '_sudo_password': 'x'})]",
            ["a: _sudo_password: has no use beside _sudo = False"],
        ),
        ("g = ['a', 'b', 'a']", ["a: named twice in group g"]),
        (
            "g = [('a', {'driver': '580'})]\nh = [('a', {'driver': '595'})]",
            ["a: driver: groups g and h give it different values"],
        ),
        (
            "g = (['a'], {'gpus': 8})\nh = (['a'], {'gpus': 4})",
            ["a: gpus: groups g and h give it different values"],
        ),
        (
            "g = ['gpu1', ('other', {'ssh_hostname': 'GPU1'})]",
            ["other: ssh_hostname: leads to gpu1 port 22, and so does gpu1"],
        ),
        (
            "g = ['gpu1', ('other', {'ssh_hostname': 'gpu1', 'gpus': -1})]",
            [
                "other: gpus: found -1: input should be greater than or equal to 0",
                "other: ssh_hostname: leads to gpu1 port 22, and so does gpu1",
            ],
        ),
        (
            "g = ['a;reboot']",
            [
                "'a;reboot': is no host name: wanted a name or address of letters, digits, "
                "'.', '-', '_' and ':'"
            ],
        ),
        (
            "g = ['@localhost']",
            ["FILE: NoConnectorError: Invalid connector: localhost"],
        ),
        ("g = [('a',)]", ["FILE: g: found 'a' in it: wanted 'name' or ('name', {...})"]),
        ("g = []", ["FILE: holds no hosts: wanted at least one list, as gpus = ['gpu001']"]),
        ("", ["FILE: holds no hosts: wanted at least one list, as gpus = ['gpu001']"]),
        ("g = [", ["FILE: line 1: not Python: '[' was never closed"]),
        ("x = 1\ny = 1 / 0", ["FILE: line 2: ZeroDivisionError: division by zero"]),
        ("import sys\nsys.exit(3)", ["FILE: line 2: SystemExit: 3"]),
        (
            "g = ['a']\nports = [22, 80]",
            [
                'FILE: Ignoring host group "ports". Host groups may only contain strings (host) '
                "or tuples (host, data). (a list that is no group starts with _)"
            ],
        ),
        (
            "g = (['gpu1', 'gpu2', 'gpu3'], {'drivr': '580'})",
            ["gpu[1-3]: drivr: unknown key; did you mean driver?"],
        ),
    ],
    ids=range(26),
)
def test_one_fault(write, text: str, expected: list[str]) -> None:  # type: ignore[no-untyped-def]
    assert faults(write(text)) == expected


def test_many_faults_are_one_message(write) -> None:  # type: ignore[no-untyped-def]
    found = faults(
        write(
            "g = ['a', 'a', ('b', {'drivr': 1}), ('c', {'gpus': '8', 'ssh_port': 0}), 'd e']\n"
            "odd = [1]\n",
            g="cuda = '13'\n",
        )
    )
    text = "\n".join(found)
    for piece in ("named twice", "drivr", "c: gpus", "c: ssh_port", "'d e'", "odd", "a,b,c"):
        assert piece in text, (piece, text)


def test_broken_group_data_names_its_line(write) -> None:  # type: ignore[no-untyped-def]
    found = faults(write("g = ['a']", g="driver = undefined\n"))
    assert len(found) == 1
    assert "NameError" in found[0]


def test_a_helper_in_group_data_is_no_wish(write) -> None:  # type: ignore[no-untyped-def]
    text = "import os\ndef newest():\n    return '580'\ndriver = newest()\n"
    assert read_inventory(write("g = ['a']", g=text)).hosts["a"].spec.driver == "580"


@pytest.mark.parametrize("path", ["nowhere.py", "."])
def test_no_inventory_file(path: str) -> None:
    assert "is no inventory file" in faults(path)[0]


FLEET = named_hosts("gpu[001-010],login,@local", {})


@pytest.mark.parametrize(
    ("expression", "count"),
    [
        ("gpu[001-004]", 4),
        ("gpu[001-004],login", 5),
        ("gpu00*", 9),
        ("gpu[001,003]", 2),
        ("*", 12),
        ("@local", 1),
        ("gpu[001-010]!gpu003", 9),
    ],
)
def test_limit(expression: str, count: int) -> None:
    assert len(FLEET.limit(expression).hosts) == count


def test_limit_takes_groups(write) -> None:  # type: ignore[no-untyped-def]
    fleet: Fleet = read_inventory(write("rack1 = ['a', 'b']\nrack2 = ['c']"))
    assert list(fleet.limit("rack1").hosts) == ["a", "b"]
    assert list(fleet.limit("rack2,a").hosts) == ["a", "c"]
    assert list(fleet.limit("lab").hosts) == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ("gpu[009-012]", "gpu[009-012]: not in"),
        ("nowhere", "matches none of the 12 hosts"),
        ("gpu001,nowhere", "nowhere: matches none"),
        ("gpu[001-", "matches none"),
        ("", "is empty"),
        (" , ", "is empty"),
    ],
)
def test_limit_that_matches_nothing(expression: str, message: str) -> None:
    with pytest.raises(WrongInput) as caught:
        FLEET.limit(expression)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    "nodes",
    ["", "gpu[1-", "gpu[1-99999999]", "a;b", "@nope/x", "-oProxyCommand=x", "a b", "fe80::1%$(id)"],
)
def test_names_that_are_none(nodes: str) -> None:
    with pytest.raises(WrongInput):
        named_hosts(nodes, {})


@pytest.mark.parametrize("name", ["gpu1", "10.0.0.1", "fe80::1%eth0", "gpu_1.lab", "@local"])
def test_names_that_are_some(name: str) -> None:
    assert list(named_hosts(name, {}).hosts) == [name]


def test_node_sets_fold_and_unfold() -> None:
    assert split_list("gpu[1,3],@docker/a:b, c") == ["gpu[1,3]", "@docker/a:b", "c"]
    assert node_names("n[08-11]") == ["n08", "n09", "n10", "n11"]
    assert fold(["n08", "n09", "n10", "@local", "fe80::1"]) == "n[08-10],@local,fe80::1"
    assert fold(["n1"]) == "n1"
    assert fold([]) == ""
