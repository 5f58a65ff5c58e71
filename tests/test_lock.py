"""The lock file: the same bytes for the same content, and nothing is taken from a damaged one."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pysequoia import Tsk

from deploy.fleet.errors import WrongInput
from deploy.fleet.spec import NodeSpec
from deploy.lock import (
    DECIDES,
    HostLock,
    Lock,
    _digest,
    lock_path,
    read_lock,
    spec_digest,
    write_lock,
)
from deploy.stack import Stack
from tests.factory import environment, solved


def lock_of(**hosts: Stack) -> Lock:
    return Lock(
        stacks={stack.id: stack for stack in hosts.values()},
        hosts={
            name: HostLock(stack=stack.id, spec=spec_digest(NodeSpec()))
            for name, stack in hosts.items()
        },
    )


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A lock of two hosts."""
    target = tmp_path / "lab.lock"
    write_lock(target, lock_of(h100=solved("hgx-h100"), v100=solved("v100")))
    return target


def test_its_place_is_beside_the_inventory() -> None:
    assert lock_path(Path("inventories/lab.py")) == Path("inventories/lab.lock")


def test_what_was_written_is_read(path: Path) -> None:
    lock = read_lock(path)
    assert lock is not None
    assert lock.stack_of("h100") == solved("hgx-h100")
    assert lock.stack_of("v100") == solved("v100")
    assert lock.stack_of("other") is None


def test_no_file_is_no_lock(tmp_path: Path) -> None:
    assert read_lock(tmp_path / "none.lock") is None


def test_equal_content_gives_equal_bytes_in_any_order(path: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.lock"
    write_lock(other, lock_of(v100=solved("v100"), h100=solved("hgx-h100")))
    assert other.read_bytes() == path.read_bytes()


def test_a_file_that_says_the_same_is_not_touched(path: Path) -> None:
    before = path.stat()
    lock = read_lock(path)
    assert lock is not None
    write_lock(path, lock)
    assert path.stat().st_mtime_ns == before.st_mtime_ns
    assert path.stat().st_ino == before.st_ino


def test_a_rewritten_file_keeps_its_mode_and_leaves_nothing_beside_it(path: Path) -> None:
    path.chmod(0o640)
    write_lock(path, lock_of(h100=solved("hgx-h100")))
    assert path.stat().st_mode & 0o777 == 0o640
    assert [entry.name for entry in path.parent.iterdir()] == ["lab.lock"]


def test_stacks_that_no_host_has_are_not_written(path: Path) -> None:
    lock = read_lock(path)
    assert lock is not None
    del lock.hosts["v100"]
    write_lock(path, lock)
    assert set(json.loads(path.read_text())["stacks"]) == {solved("hgx-h100").id}


def test_a_folder_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    with pytest.raises(WrongInput, match="cannot be written"):
        write_lock(tmp_path / "none" / "lab.lock", lock_of(h100=solved("hgx-h100")))


Damage = Callable[[Path], Any]


def text(damage: Callable[[str], str]) -> Damage:
    return lambda path: path.write_text(damage(path.read_text()))


def sealed(damage: Callable[[dict[str, Any]], Any]) -> Damage:
    """Damage whose author made the digest fit again."""

    def apply(path: Path) -> None:
        content = json.loads(path.read_text())
        damage(content)
        content["digest"] = _digest(content)
        path.write_text(json.dumps(content))

    return apply


def first(content: dict[str, Any]) -> dict[str, Any]:
    found = next(iter(content["stacks"].values()))
    assert isinstance(found, dict)
    return found


def another_key(content: dict[str, Any]) -> None:
    key = str(Tsk.generate("Other <other@example.org>").extract_certificate())
    for name, stack in list(content["stacks"].items()):
        stack["repository"]["key"] = key
        moved = Stack.model_validate_json(json.dumps(stack)).id
        content["stacks"][moved] = content["stacks"].pop(name)
        for host in content["hosts"].values():
            host["stack"] = moved if host["stack"] == name else host["stack"]


PYTHON = {
    "version": "3.12.11",
    "key": "cpython-3.12.11-linux-x86_64-gnu",
    "url": "https://mirror.example/python.tar.gz",
    "sha256": "0" * 64,
}


def managed(**changes: str) -> Damage:
    """An environment with this Python put into a stack."""
    plain = environment().model_dump(mode="json")
    python = {**PYTHON, **changes}
    return sealed(lambda lock: first(lock).update(environment={**plain, "managed_python": python}))


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (text(lambda old: old.replace("580.178.04", "595.91.07")), "edited by hand or damaged"),
        (text(lambda old: old.replace('"open"', '"closed"')), "edited by hand or damaged"),
        (text(lambda old: old[: len(old) // 2]), "is no JSON"),
        (text(lambda old: ""), "is no JSON"),
        (text(lambda old: "<<<<<<< ours\n" + old), "unfinished merge"),
        (text(lambda old: "[]"), "is no lock"),
        (text(lambda old: "{}"), "is no lock"),
        (text(lambda old: '{"version": 3, "version": 3}'), "there twice"),
        (text(lambda old: "[" * 100_000), "is no JSON"),
        (text(lambda old: old.replace('"version": 3', '"version": 9')), "is of version 9"),
        (lambda path: path.write_bytes(b"\xff\xfe"), "cannot be read"),
        (lambda path: (path.unlink(), path.mkdir()), "cannot be read"),
        (text(lambda old: old.replace('"digest"', '"Digest"')), "edited by hand or damaged"),
        (sealed(lambda lock: lock.update(more=1)), "more"),
        (sealed(lambda lock: first(lock).update(arch=1)), "arch"),
        (sealed(lambda lock: first(lock).update(arch="aarch64")), "its content has the id"),
        (sealed(lambda lock: lock["hosts"]["h100"].update(stack="0")), "names stack 0"),
        (sealed(another_key), "wanted "),
        (managed(), "its content has the id"),  # nothing else is wrong with it
        (managed(key="../../../etc"), "managed_python.key"),
        (managed(version="3.12; id"), "managed_python.version"),
        (managed(url="https://me:hunter2@mirror.example/a"), "managed_python.url"),
        (managed(sha256="0" * 63), "managed_python.sha256"),
        (sealed(lambda lock: first(lock)["driver"].update(stream="a:b c")), "driver.stream"),
        (sealed(lambda lock: first(lock)["driver"].update(prebuilt="$(id)")), "driver.prebuilt"),
        (sealed(lambda lock: first(lock)["driver"].update(origin="mine")), "driver.origin"),
        (sealed(lambda lock: first(lock).update(packaging="rpm")), "packaging"),
        (sealed(lambda lock: first(lock).update(dcgm={"version": 4})), "dcgm.version"),
    ],
)
def test_a_lock_that_cannot_be_trusted_is_refused(path: Path, damage: Damage, said: str) -> None:
    damage(path)
    with pytest.raises(WrongInput) as error:
        read_lock(path)
    assert said in str(error.value)
    assert str(path) in str(error.value)


def test_a_refusal_names_the_next_command(path: Path) -> None:
    path.write_text("x")
    with pytest.raises(WrongInput, match=r"gpufleet lock .*lab\.py"):
        read_lock(path)


def test_the_digest_is_of_wishes_that_decide_a_stack() -> None:
    plain = spec_digest(NodeSpec())
    assert spec_digest(NodeSpec(policy="keep", torch_build="auto")) == plain
    for key, value in {"prefix": "/opt/x", "library_path": True, "gpus": 8}.items():
        assert spec_digest(NodeSpec(**{key: value})) == plain
    assert set(NodeSpec.model_fields) > DECIDES
    values: dict[str, Any] = {
        "policy": "lts",
        "driver": "580",
        "driver_modules": "open",
        "origin": "vendor",
        "dcgm": "latest",
        "container_toolkit": "latest",
        "same_torch": "train",
        "env": "venv",
        "python_downloads": "http://mirror/python.json",
        "cuda": "13.0",
        "cudnn": "9",
        "nccl": "2",
        "torch": "2.13",
        "torch_build": "cpu",
        "python": "3.11",
        "extras": ("einops",),
        "vendor_repository": "http://mirror/cuda",
        "vendor_key_fingerprint": "A" * 40,
        "python_index": "http://mirror/simple",
        "torch_index": "http://mirror/torch",
        "find_links": ("/srv/wheels",),
    }
    assert set(values) == DECIDES
    digests = {spec_digest(NodeSpec(**{key: value})) for key, value in values.items()}
    assert len(digests | {plain}) == len(DECIDES) + 1
