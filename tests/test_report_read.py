"""Run directories read back: of this controller, of others, damaged ones."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from deploy.fleet.errors import WrongInput
from deploy.fleet.runs import Run
from tests.verified import healthy, recorded, remap_pending, unreachable
from verify.report import read
from verify.report.read import find, find_verify, look, read_view
from verify.report.read import recorded as runs
from verify.report.view import meaning


def change(path: Path, edit: Callable[[dict[str, object]], object]) -> None:
    document = json.loads(path.read_text())
    edit(document)
    path.write_text(json.dumps(document))


def test_a_run_is_read_as_it_was_written(tmp_path: Path) -> None:
    hosts = [healthy("gpu1"), remap_pending("gpu2"), unreachable("gpu3")]
    place = recorded(tmp_path, hosts)
    view = read_view(find_verify(place.name, tmp_path))
    assert list(view.hosts.values()) == hosts
    assert (view.fleet, view.level, view.run.exit) == ("lab", "quick", 1)
    assert view.seconds is not None
    assert view.seconds < 60


def test_the_newest_verify_run_is_the_default(tmp_path: Path) -> None:
    older, newer = recorded(tmp_path, [healthy()]), recorded(tmp_path, [healthy()])
    Run(tmp_path, ["gpufleet", "apply", "lab.py"], inventory="lab.py", hosts=["gpu1"]).end(
        0, "finished"
    )
    (tmp_path / "zzz").mkdir()
    assert find(None, tmp_path).place == newer
    assert [one.place.name for one in runs(tmp_path)][-2:] == [newer.name, older.name]


@pytest.mark.parametrize(
    ("edit", "reason"),
    [
        (lambda d: d.update(host="gpu2"), "it is the result of another host"),
        (lambda d: d["result"].update(host="gpu2"), "it is the result of another host"),
        (lambda d: d.update(verdict="splendid"), "verdict: Input should be 'not-asked'"),
        (lambda d: d["result"].update(schema=2), "result.schema: Input should be 1"),
        (lambda d: d["result"].update(surprise=1), "result.surprise: Extra inputs"),
        (lambda d: d["result"].update(python="x" * 9999), "result.python: String should have"),
    ],
)
def test_a_bad_file_concerns_its_host_alone(
    tmp_path: Path, edit: Callable[[dict[str, object]], object], reason: str
) -> None:
    place = recorded(tmp_path, [healthy("gpu1"), healthy("gpu3")])
    change(place / "hosts/gpu1.json", edit)
    hosts = read_view(look(place)).hosts
    assert hosts["gpu3"] == healthy("gpu3")
    assert (hosts["gpu1"].verdict, hosts["gpu1"].result) == ("not-run", None)
    assert "gpu1.json cannot be used: " in hosts["gpu1"].message
    assert reason in hosts["gpu1"].message


@pytest.mark.parametrize("text", ["", "[]", "null", '{"host": ', "[" * 100_000, "\xff\x00"])
def test_what_is_no_result_is_not_run(tmp_path: Path, text: str) -> None:
    place = recorded(tmp_path, [healthy("gpu1")])
    (place / "hosts/gpu1.json").write_bytes(text.encode("latin-1"))
    one = read_view(look(place)).hosts["gpu1"]
    assert one.verdict == "not-run"
    assert "cannot be used" in one.message


def test_a_huge_file_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = recorded(tmp_path, [healthy("gpu1")])
    monkeypatch.setattr(read, "MOST_BYTES", 1024**2)
    with (place / "hosts/gpu1.json").open("r+b") as file:
        file.truncate(1024**2 + 1)
    assert "larger than 1 MiB" in read_view(look(place)).hosts["gpu1"].message


def test_a_killed_run_shows_the_hosts_that_it_did_not_reach(tmp_path: Path) -> None:
    run = Run(tmp_path, ["gpufleet", "verify", "lab.py"], inventory="lab.py", hosts=["a", "b"])
    run.result("a", "pass", **healthy("a").model_dump(mode="json", by_alias=True, exclude={"host"}))
    view = read_view(find(None, tmp_path))
    assert view.hosts["a"].verdict == "pass"
    assert view.hosts["b"].verdict == "not-run"
    assert view.hosts["b"].message == "it has no result yet"
    assert meaning(view.run) == "this run has no end: it is still going, or it was killed"
    run.end(None, "interrupted")
    view = read_view(find(None, tmp_path))
    assert view.hosts["b"].message == "the run ended before this host did"
    assert meaning(view.run).startswith("this run was interrupted: ")


def test_a_missing_file_is_said(tmp_path: Path) -> None:
    place = recorded(tmp_path, [healthy("gpu1")])
    (place / "hosts/gpu1.json").unlink()
    assert read_view(look(place)).hosts["gpu1"].message.endswith("hosts/gpu1.json is missing")


@pytest.mark.parametrize(
    ("edit", "reason"),
    [
        (lambda d: d.update(version=7), "is of version 7"),
        (lambda d: d["hosts"].update({"../../etc/passwd": "pass"}), "which is no host name"),
        (lambda d: d["hosts"].update({"a\x1b[2J": "pass"}), "which is no host name"),
        (lambda d: d.pop("state"), "state: Field required"),
    ],
)
def test_a_run_that_cannot_be_read_is_refused(
    tmp_path: Path, edit: Callable[[dict[str, object]], object], reason: str
) -> None:
    place = recorded(tmp_path, [healthy("gpu1")])
    change(place / "run.json", edit)
    with pytest.raises(WrongInput, match=reason):
        find(str(place))


def test_an_unknown_run_is_refused_with_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(WrongInput, match="holds no verify run: gpufleet verify INVENTORY"):
        find(None, tmp_path)
    place = recorded(tmp_path, [healthy("gpu1")])
    with pytest.raises(WrongInput, match=f"is no run directory; there are {place.name}"):
        find(place.name[:-1], tmp_path)
    other = Run(tmp_path, ["gpufleet", "apply", "x.py"], inventory="x.py", hosts=["a"])
    with pytest.raises(WrongInput, match="is no verify run: found 'gpufleet apply"):
        find_verify(other.id, tmp_path)
