"""Hosts without root: only the environment, below a directory of the user's."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from pyinfra_cli.util import PYTHON_CODES

from deploy.cli import main
from deploy.facts import Disk, PythonFacts
from deploy.fleet import transport
from deploy.fleet.inventory import read_inventory
from deploy.fleet.places import SYSTEM, places
from deploy.fleet.spec import NodeSpec, read_spec
from deploy.plan import HostPlan, plan_host
from deploy.show_plan import View, render
from deploy.steps import Wanted
from tests import factory
from tests.factory import driven, facts
from verify import own

PREFIX = "/home/ops/.local/share/gpufleet"
READY = PythonFacts(version="3.11.2", venv=True, headers=True)
LEFT_OUT = (
    *("os-base", "repository", "pins", "module-options", "driver", "rdma", "fabric", "imex"),
    *("persistence", "settings", "memlock", "cuda", "cudnn", "nccl", "dcgm", "container-toolkit"),
)


def spec(**wishes: Any) -> NodeSpec:
    return NodeSpec(**{"privileged": False, "prefix": PREFIX, **wishes})


def plan(hardware: str = "none", *, wishes: dict[str, Any] | None = None, **found: Any) -> HostPlan:
    here = facts(hardware, **{"python": READY, "compiler": "12", "root": False, **found})
    wish = spec(**(wishes or {}))
    solution = factory.solve(wish, here)
    assert solution.stack is not None, solution.blocked
    return plan_host(Wanted(host="h1", spec=wish, stack=solution.stack), here)


@pytest.mark.parametrize(
    ("wishes", "words"),
    [
        ({"driver": "580"}, "driver cannot be had without root"),
        ({"cuda": "13.0", "nccl": "2"}, "cuda, nccl cannot be had without root"),
        ({"library_path": True}, "library_path cannot be had without root"),
        ({"vendor_repository": "http://mirror/x"}, "vendor_repository cannot"),
        ({"prefix": "/opt/gpufleet"}, "prefix /opt/gpufleet is root's to write"),
        ({"prefix": "/usr/local/gpufleet"}, "prefix /usr/local/gpufleet is root's to write"),
    ],
)
def test_what_needs_root_is_refused_with_it(wishes: dict[str, Any], words: str) -> None:
    made, faults = read_spec("h1", {"privileged": False, "prefix": PREFIX, **wishes})
    assert made is None
    assert [fault.where for fault in faults] == ["h1"]
    assert words in faults[0].message
    assert faults[0].message.startswith("privileged = False")


def test_the_default_prefix_is_refused_too() -> None:
    _, faults = read_spec("h1", {"privileged": False})
    assert "/opt/gpufleet is root's to write" in faults[0].message


def test_without_root_is_none_of_what_root_installs() -> None:
    made = spec(driver="none", torch="2.13.0")
    assert (made.driver, made.cuda, made.cudnn, made.nccl) == ("none",) * 4


def test_everything_lies_below_the_prefix() -> None:
    where = places(spec())
    assert not where.root
    paths = (where.expected, where.record, where.state, where.journal, where.lock, where.work)
    assert all(path.startswith(f"{PREFIX}/") for path in paths)
    assert where.expected == f"{PREFIX}/expected.json"
    assert places(NodeSpec(prefix=PREFIX)) == SYSTEM


def test_the_plan_is_the_environment_and_names_what_is_left_out() -> None:
    found = plan()
    assert [step.layer for step in found.steps] == ["torch-env", "torch-env", "expected"]
    assert found.left_out == LEFT_OUT
    written = json.dumps([step.model_dump(mode="json") for step in found.steps])
    assert "/etc/" not in written
    assert "/var/lib/gpufleet" not in written
    view = View("lab", "lab.py", "", 1, {"h1": found}, {}, {})
    shown = "\n".join(text for _, text in render(view))
    assert "os-base, repository, pins, module-options, driver" in shown
    assert "left out, the inventory says privileged = False" in shown


def test_with_root_nothing_is_left_out() -> None:
    wish = NodeSpec()
    here = facts("none")
    stack = factory.solve(wish, here).stack
    assert stack is not None
    assert plan_host(Wanted(host="h1", spec=wish, stack=stack), here).left_out == ()


def test_the_driver_counts_as_it_is_found() -> None:
    here = driven("l40s", "535.183.01", "closed", root=False)
    old = factory.solve(spec(), here)
    new = factory.solve(spec(), driven("l40s", "580.178.04", "open", root=False))
    assert old.stack
    assert old.stack.environment
    assert new.stack
    assert new.stack.environment
    assert (old.stack.driver, old.stack.cuda, old.stack.repository) == (None, None, None)
    assert old.stack.environment.build == "cu126"
    assert new.stack.environment.build == "cu132"


def test_no_suggestion_names_what_needs_root() -> None:
    here = driven("l40s", "440.118.02", "closed", root=False)
    refused = factory.solve(spec(), here).blocked
    assert refused is not None
    assert not any(way.startswith(("driver =", "leave driver")) for way in refused.unblock)


def test_what_an_administrator_must_install_is_named() -> None:
    found = plan(python=READY.model_copy(update={"venv": False}))
    assert found.blocked is not None
    assert "python3-venv" in found.blocked.reason
    assert "sudo apt-get install python3-venv" in found.blocked.unblock[0]


def test_what_is_only_nice_to_have_is_a_warning() -> None:
    found = plan(python=READY.model_copy(update={"headers": False}), compiler="")
    assert found.blocked is None
    assert len(found.steps) == 3
    (warning,) = found.warnings
    assert "no Python.h, which torch.compile needs" in warning
    assert "sudo apt-get install g++ gcc make python3-dev" in warning


def test_only_the_disk_of_the_prefix_must_be_writable() -> None:
    room = Disk(size=10**12, available=10**11, read_only=False)
    stuck = room.model_copy(update={"read_only": True})
    fine = plan(disks={"/": stuck, "/home/ops/.local/share": room, "/tmp": room})
    assert fine.blocked is None
    full = plan(disks={"/": room, "/home/ops/.local/share": stuck, "/tmp": room})
    assert full.blocked is not None
    assert "mounted read-only: /home/ops/.local/share" in full.blocked.reason


def test_the_record_of_verification_lies_there_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    system, prefix = tmp_path / "var" / "verified.json", tmp_path / "prefix"
    prefix.mkdir()
    monkeypatch.setattr(own, "RECORD", str(system))
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    record = own.new_record([], "2026-01-31T12:00:00Z", "abc")
    assert own.keep_record(record, str(prefix)) == str(system)
    (prefix / "expected.json").write_text("{}")
    assert own.keep_record(record, str(prefix)) == f"{prefix}/verified.json"
    (prefix / "expected.json").unlink()
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert own.keep_record(record, str(prefix)) == f"{prefix}/verified.json"


@pytest.mark.long
def test_apply_again_and_remove_on_this_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The real probe, engine and record, by the user of the tests; no environment, for speed."""
    monkeypatch.chdir(tmp_path)
    PYTHON_CODES.clear()
    prefix = tmp_path / "home" / ".data" / "gpufleet"
    wish = {"privileged": False, "prefix": str(prefix), "torch": "none"}
    Path("lab.py").write_text(f"here = (['@local'], {wish!r})\n")
    asked: list[bool] = []
    for name in ("run", "hold", "run_script"):
        real = getattr(transport.Connection, name)

        def watched(self: Any, *given: Any, real: Any = real, **more: Any) -> Any:
            asked.append(more.get("root", False))
            return real(self, *given, **more)

        monkeypatch.setattr(transport.Connection, name, watched)
    assert main(["apply", "lab.py", "--yes"]) == 0, capsys.readouterr().out
    assert "1 change;" in capsys.readouterr().out
    document = json.loads((prefix / "expected.json").read_text())
    assert (document["prefix"], document["environment"]) == (str(prefix), None)
    state = (prefix / "record" / "state").read_text()
    assert f"stack={document['stack']}\n" in state
    events = (prefix / "record" / "journal.jsonl").read_text().splitlines()
    assert {json.loads(line)["event"] for line in events} == {"began", "ended"}
    assert (prefix / "expected.json").stat().st_uid == os.getuid()

    before = {path: path.stat().st_mtime_ns for path in (prefix / "record").rglob("*")}
    assert main(["apply", "lab.py", "--yes"]) == 0
    assert "0 changes; 1 unchanged" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in (prefix / "record").rglob("*")} == before

    assert main(["remove", "lab.py", "--yes"]) == 0
    assert not prefix.exists(), list(prefix.rglob("*"))
    assert prefix.parent.exists()
    assert asked
    assert not any(asked), "nothing may ask for root"


@pytest.mark.parametrize(
    ("uid", "environment", "prefix"),
    [
        (1000, {}, "/home/ops/.local/share/gpufleet"),
        (1000, {"XDG_DATA_HOME": "/data/ops/"}, "/data/ops/gpufleet"),
        (0, {}, "/srv/gpufleet"),
        (0, {"XDG_DATA_HOME": "/data/root"}, "/data/root/gpufleet"),
    ],
)
def test_the_local_inventory_lies_where_its_user_may_write_and_training_may_read(
    uid: int, environment: dict[str, str], prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    PYTHON_CODES.clear()
    for name in ("XDG_DATA_HOME", "PIP_FIND_LINKS"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {"HOME": "/home/ops", **environment}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(os, "geteuid", lambda: uid)
    fleet = read_inventory(str(Path(__file__).parent.parent / "inventories/local.py"))
    (host,) = fleet.hosts.values()
    assert (host.name, host.spec.privileged, host.spec.prefix) == ("@local", False, prefix)
    assert (host.spec.torch_build, host.spec.find_links) == ("cpu", ())
