"""`gpufleet lock` and `gpufleet adopt` as commands: files written, words said, exit codes."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pyinfra_cli.util import PYTHON_CODES

from deploy import cli, locking
from deploy.commands import adopt, lock
from deploy.facts import Cuda, NodeFacts
from deploy.fleet import exits
from deploy.fleet.inventory import Fleet
from deploy.survey import Survey
from tests import factory
from tests.factory import driven, facts
from tests.test_adopt import CUDA, DRIVER, living
from tests.test_locking import survey


class World:
    """Hosts as a survey would find them, and a count of who was looked at."""

    def __init__(self, folder: Path) -> None:
        self.inventory = folder / "lab.py"
        self.lock = folder / "lab.lock"
        self.hosts: dict[str, dict[str, Any]] = {}
        self.found: dict[str, NodeFacts | str] = {}
        self.seen: list[str] = []

    def add(self, name: str, found: NodeFacts | str, **wish: Any) -> None:
        common = {"vendor_key_fingerprint": factory.key_fingerprint(), "torch": "none"}
        self.hosts[name] = {**common, **wish}
        self.found[name] = found

    def survey(self, fleet: Fleet, **_: Any) -> Survey:
        self.seen += fleet.hosts
        return survey(**{name: self.found[name] for name in fleet.hosts})

    def run(self, *words: str) -> int:
        self.seen.clear()
        PYTHON_CODES.clear()  # pyinfra compiles a file once per process
        listed = "\n".join(f"    ({name!r}, {wish!r})," for name, wish in self.hosts.items())
        self.inventory.write_text(f"gpus = [\n{listed}\n]\n")
        return cli.main([words[0], str(self.inventory), *words[1:]])


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    made = World(tmp_path)
    for command in (lock, adopt):
        monkeypatch.setattr(command, "survey", made.survey)
    monkeypatch.setattr(locking, "Resolver", lambda: lambda wish, kept=None: factory.environment())
    made.add("h1", facts("hgx-h100"))
    made.add("h2", facts("hgx-h100"))
    made.add("v1", facts("v100"))
    return made


Output = Callable[[], str]


@pytest.fixture
def said(capsys: pytest.CaptureFixture[str]) -> Output:
    return lambda: capsys.readouterr().out


def test_a_lock_is_written_and_equal_hosts_are_told_together(world: World, said: Output) -> None:
    assert world.run("lock") == exits.OK
    text = said()
    assert "h[1-2]: new: driver 580.178.04, modules open, fabric 580.178.04, cuda 13.0" in text
    assert "v1: new: driver 580.178.04, modules closed, cuda 12.9, cudnn 9.10.2.21" in text
    assert "lab.lock: 3 hosts, 2 stacks" in text
    assert world.lock.is_file()


def test_two_locks_are_the_same_bytes(world: World, said: Output) -> None:
    world.run("lock")
    first = world.lock.read_bytes()
    assert world.run("lock") == exits.OK
    assert world.seen == []
    assert world.lock.read_bytes() == first
    assert "nothing changed" in said()
    assert world.run("lock", "--upgrade") == exits.OK
    assert world.seen == ["h1", "h2", "v1"]
    assert world.lock.read_bytes() == first
    world.lock.unlink()
    world.run("lock")
    assert world.lock.read_bytes() == first


def test_only_new_and_changed_hosts_are_solved(world: World, said: Output) -> None:
    world.run("lock")
    before = json.loads(world.lock.read_text())["hosts"]
    world.hosts["h2"]["driver"] = "595"
    world.add("l1", facts("l40s"))
    said()
    assert world.run("lock") == exits.OK
    assert world.seen == ["h2", "l1"]
    text = said()
    assert "h2: driver 580.178.04 -> 595.91.07; fabric 580.178.04 -> 595.91.07" in text
    assert "l1: new: driver" in text
    after = json.loads(world.lock.read_text())["hosts"]
    assert {name: after[name] for name in ("h1", "v1")} == {
        name: before[name] for name in ("h1", "v1")
    }


def test_a_limit_leaves_the_others_as_they_are(world: World, said: Output) -> None:
    world.run("lock")
    before = json.loads(world.lock.read_text())["hosts"]
    world.hosts["h1"]["driver"] = world.hosts["v1"]["driver"] = "580.159.04"
    assert world.run("lock", "--limit", "v1") == exits.OK
    assert world.seen == ["v1"]
    after = json.loads(world.lock.read_text())["hosts"]
    assert after["h1"] == before["h1"]
    assert after["v1"] != before["v1"]


def test_hosts_that_left_the_inventory_leave_the_lock(world: World, said: Output) -> None:
    world.run("lock")
    del world.hosts["v1"]
    assert world.run("lock") == exits.OK
    assert "v1: no longer in the inventory, dropped" in said()
    assert set(json.loads(world.lock.read_text())["hosts"]) == {"h1", "h2"}


def test_hosts_without_an_answer_are_told_and_tried_again(world: World, said: Output) -> None:
    world.add("gone", "gone: no answer within 10 s")
    assert world.run("lock") == exits.NOT_LOOKED_AT
    assert "gone: no answer within 10 s [unreachable]" in said()
    world.hosts["v1"]["cuda"] = "13.0"
    assert world.run("lock") == exits.FAILED
    text = said()
    assert "v1: CUDA 13.0 does not support Tesla V100 SXM2 32GB (volta)" in text
    assert '-> cuda = "12.9"' in text
    assert "v1: has no stack any more" in text
    assert world.seen == ["v1", "gone"]
    assert set(json.loads(world.lock.read_text())["blocked"]) == {"gone", "v1"}
    world.found["gone"] = facts("l40s")
    del world.hosts["v1"]["cuda"]
    assert world.run("lock") == exits.OK
    assert json.loads(world.lock.read_text())["blocked"] == {}


def test_an_upgrade_keeps_what_it_cannot_solve(world: World, said: Output) -> None:
    world.run("lock")
    first = world.lock.read_bytes()
    world.found["h1"] = "h1: no answer within 10 s"
    assert world.run("lock", "--upgrade") == exits.NOT_LOOKED_AT
    assert "stays as it was locked" in said()
    assert world.lock.read_bytes() == first


def test_nothing_is_written_for_a_fleet_without_any_answer_but_who_has_none(
    world: World, said: Output
) -> None:
    for name in world.found:
        world.found[name] = f"{name}: no answer"
    assert world.run("lock") == exits.NOT_LOOKED_AT
    content = json.loads(world.lock.read_text())
    assert content["hosts"] == {}
    assert content["blocked"] == {"h1": "unreachable", "h2": "unreachable", "v1": "unreachable"}


def test_a_damaged_lock_stops_before_anybody_is_looked_at(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    world.run("lock")
    world.lock.write_text(world.lock.read_text().replace("580.178.04", "580.999.99"))
    assert world.run("lock") == exits.WRONG_INPUT
    assert "edited by hand" in capsys.readouterr().err
    assert world.seen == []


def test_a_limit_that_matches_nothing(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    assert world.run("lock", "--limit", "nobody") == exits.WRONG_INPUT
    assert "nobody" in capsys.readouterr().err
    assert not world.lock.exists()


def test_json(world: World, said: Output) -> None:
    world.hosts["v1"]["cuda"] = "13.0"
    assert world.run("lock", "--json") == exits.FAILED
    found = json.loads(said())
    assert found["hosts"]["h1"]["driver"] == "580.178.04"
    assert found["blocked"]["v1"]["rule"] == "cuda-hardware"
    assert found["digest"] == json.loads(world.lock.read_text())["digest"]


def test_changed_wheels_are_told(
    world: World, said: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.hosts["h1"]["torch"] = "2.13.0"
    world.run("lock")
    newer = factory.environment(id="1", requirements=("numpy==2.5.0 --hash=sha256:" + "d" * 64,))
    monkeypatch.setattr(locking, "Resolver", lambda: lambda wish, kept=None: newer)
    said()
    world.run("lock", "--upgrade")
    assert "h1: wheels numpy 2.4.6 -> 2.5.0, torch 2.13.0+cpu -> -" in said()


def test_another_maker_of_the_same_wheels_is_told(
    world: World, said: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.hosts["h1"]["torch"] = "2.13.0"
    world.run("lock")
    other = factory.environment(id="1", kind="venv", uv="", uv_hashes=())
    monkeypatch.setattr(locking, "Resolver", lambda: lambda wish, kept=None: other)
    said()
    world.run("lock", "--upgrade")
    assert "h1: environment made by uv -> venv" in said()


# ---- parts


def month(monkeypatch: pytest.MonkeyPatch, *without: str) -> None:
    """What the repository offers this month: all but these versions."""
    offers = [one for one in factory.offers() if not any(part in one.version for part in without)]
    monkeypatch.setattr(factory, "offers", lambda: offers)


def versions(world: World, host: str) -> dict[str, str]:
    content = json.loads(world.lock.read_text())
    stack = content["stacks"][content["hosts"][host]["stack"]]
    return {part: stack[part]["version"] for part in ("driver", "fabric", "cudnn", "nccl")}


EARLIER = ("580.178.04", "595.", "9.26.0.51", "2.30.7")


def test_a_part_moves_and_the_others_stay(
    world: World, said: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    del world.hosts["v1"]
    with monkeypatch.context() as earlier:
        month(earlier, *EARLIER)
        assert world.run("lock") == exits.OK
    first = versions(world, "h1")
    assert first["driver"] == first["fabric"] == "580.159.04"
    said()
    assert world.run("lock", "--upgrade", "driver") == exits.OK
    text = said()
    assert "h[1-2]: driver 580.159.04 -> 580.178.04; fabric 580.159.04 -> 580.178.04;" in text
    assert "the kernel module changes, 580.159.04 (open) -> 580.178.04 (open)" in text
    moved = {"driver": "580.178.04", "fabric": "580.178.04"}
    assert versions(world, "h1") == {**first, **moved}
    second = world.lock.read_bytes()
    assert world.run("lock", "--upgrade", "driver") == exits.OK
    assert world.lock.read_bytes() == second
    assert "reboots" not in said()
    assert world.run("lock", "--upgrade", "cudnn", "nccl", "--limit", "h1") == exits.OK
    newer = {"cudnn": "9.26.0.51", "nccl": "2.30.7"}
    assert versions(world, "h1") == {**first, **moved, **newer}
    assert versions(world, "h2") == {**first, **moved}
    assert world.run("lock", "--upgrade") == exits.OK
    assert versions(world, "h2") == versions(world, "h1")


def test_a_wish_of_the_inventory_beats_what_was_locked(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.run("lock")
    world.hosts["h1"]["driver"] = "580.159.04"
    assert world.run("lock", "--upgrade", "nccl") == exits.OK
    assert versions(world, "h1")["driver"] == "580.159.04"
    assert versions(world, "h2")["driver"] == "580.178.04"


def test_the_pin_that_stands_against_it_is_named(
    world: World, said: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    del world.hosts["v1"]
    with monkeypatch.context() as earlier:
        month(earlier, *EARLIER)
        world.run("lock")
    before = world.lock.read_bytes()
    month(monkeypatch, versions(world, "h1")["cudnn"])
    said()
    assert world.run("lock", "--upgrade", "driver") == exits.FAILED
    text = said()
    assert "h1: the repository has no" in text
    assert "kept as locked: cuda 13.0, cudnn" in text
    assert f"gpufleet lock {world.inventory} --limit h1 --upgrade driver cudnn" in text
    assert "stays as it was locked" in text
    assert world.lock.read_bytes() == before
    assert world.run("lock", "--upgrade", "driver", "cudnn") == exits.OK


def test_an_adopted_stack_moves_by_parts_too(world: World, said: Output) -> None:
    world.hosts.clear()
    world.found.clear()
    world.add("l1", living(CUDA, cuda=Cuda(link="/usr/local/cuda-13.0", toolkits=("13.0",))))
    assert world.run("adopt") == exits.OK
    adopted = world.lock.read_bytes()
    assert world.run("lock", "--upgrade", "torch") == exits.OK
    assert world.lock.read_bytes() == adopted
    said()
    assert world.run("lock", "--upgrade", "cudnn") == exits.OK
    assert "l1: cudnn 9.20.0.48 -> 9.26.0.51; " in said()


def test_an_unknown_part(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    world.run("lock")
    assert world.run("lock", "--upgrade", "drivers", "torch") == exits.WRONG_INPUT
    text = capsys.readouterr().err
    assert "found 'drivers': wanted one of driver, cuda, cudnn, nccl, dcgm" in text
    assert world.seen == []


def test_the_inventory_may_stand_last(world: World) -> None:
    world.run("lock")
    assert cli.main(["lock", "--upgrade", "driver", str(world.inventory)]) == exits.OK
    assert cli.main(["lock", "--upgrade"]) == exits.WRONG_INPUT


def test_the_environment_stays_whole_while_nothing_of_it_moves(
    world: World, said: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.hosts["h1"]["torch"] = "2.13.0"
    mine = factory.environment(torch="2.13.0", build="cu130")
    asked = []

    def resolve(wish: Any, kept: Any = None) -> Any:
        asked.append(kept)
        return mine

    monkeypatch.setattr(locking, "Resolver", lambda: resolve)
    world.run("lock")
    assert asked == [None]
    world.run("lock", "--upgrade", "driver")
    assert asked == [None]
    world.run("lock", "--upgrade", "torch")
    assert asked[1] == mine
    world.run("lock", "--upgrade", "extras")
    assert asked[2] == mine.model_copy(update={"requirements": ()})


# ---- adopt


def test_adopt_takes_what_works_and_asks_no_repository(world: World, said: Output) -> None:
    world.hosts.clear()
    world.found.clear()
    world.add("l1", living())
    world.add("l2", living())
    world.add("bare", facts("l40s"))
    assert world.run("adopt") == exits.FAILED
    text = said()
    assert "l[1-2]: new: driver 580.159.04, modules open" in text
    assert "bare: no driver stands: no nvidia module is loaded [driver-not-working]" in text
    first = world.lock.read_bytes()
    assert world.run("adopt", "--limit", "l1") == exits.OK
    assert world.lock.read_bytes() == first
    # What was adopted is locked: a later lock leaves it, and solves only who has no stack.
    world.run("lock")
    assert world.seen == ["bare"]
    content = json.loads(world.lock.read_text())
    driver = content["stacks"][content["hosts"]["l1"]["stack"]]["driver"]
    assert {name: pin["version"] for name, pin in driver["packages"].items()} == DRIVER


def test_a_debian_driver_can_be_adopted_and_locked(world: World) -> None:
    packages = {name: "535.247.01-1~deb12u1" for name in ("libcuda1", "nvidia-kernel-dkms")}
    world.hosts.clear()
    world.add("d1", driven("l40s", "535.247.01", "closed", packages, pci=living().pci))
    assert world.run("adopt") == exits.OK
    world.lock.unlink()
    assert world.run("lock") == exits.OK
