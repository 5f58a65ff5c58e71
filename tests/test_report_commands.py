"""status, report and explain: what they read, show and refuse."""

import json
import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from deploy.cli import main
from deploy.fleet.runs import Run, RunFile, now, read_run
from tests.verified import drifted, healthy, hung, lost_gpu, recorded, remap_pending, unreachable
from verify.judging.claims import REACHABLE
from verify.report.advice import IDENTITY, MENDED_BY_APPLY
from verify.report.age import ago, ending
from verify.report.catalogue import catalogue

Captured = pytest.CaptureFixture[str]


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a first run of six hosts, and a second of one of them that passes now."""
    monkeypatch.chdir(tmp_path)
    fleet = [healthy(), remap_pending(), lost_gpu(), drifted(), hung(), unreachable()]
    recorded(tmp_path / "runs", fleet)
    recorded(tmp_path / "runs", [healthy("gpu2")], exit=0)
    return tmp_path / "runs"


def files(root: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}


def ids(root: Path) -> list[str]:
    return sorted((path.name for path in root.iterdir()), key=lambda name: (len(name), name))


def test_status_shows_runs_and_the_last_verdict_of_every_host(root: Path, capsys: Captured) -> None:
    before = files(root)
    assert main(["status"]) == 0
    text = capsys.readouterr().out
    first, second = ids(root)
    lines = text.splitlines()
    assert lines[0] == "2 runs, the newest first"
    assert lines[1].startswith(f"{second}  ")
    assert lines[1].endswith(" ago  exit 0: 1 pass")
    assert lines[3].endswith(" ago  exit 1: 3 fail, 1 hung, 1 unreachable, 1 pass")
    last = {tuple(line.split())[:2]: line for line in lines[7:]}
    assert set(last) == {
        ("fail", "gpu[3-4]"),
        ("hung", "gpu5"),
        ("unreachable", "gpu6"),
        ("pass", "gpu1"),
        ("pass", "gpu2"),
    }
    assert last["pass", "gpu2"].endswith(second)
    assert last["pass", "gpu1"].endswith(first)
    assert files(root) == before


def test_status_tells_a_run_that_goes_on_from_one_that_was_killed(
    root: Path, capsys: Captured
) -> None:
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        run = Run(root, ["gpufleet", "apply", "lab.py"], inventory="lab.py", hosts=["gpu1"])
        path = run.directory / "run.json"
        path.write_text(path.read_text().replace(f'"pid": {os.getpid()}', f'"pid": {process.pid}'))
        main(["status"])
        assert "still going: 1 pending" in capsys.readouterr().out
    finally:
        process.kill()
        process.wait()
    main(["status"])
    assert "killed: 1 pending" in capsys.readouterr().out


def test_a_number_that_another_process_has_now_is_no_life(root: Path) -> None:
    run = read_run(root / ids(root)[0]).model_copy(update={"state": "running", "exit": None})
    assert ending(run.model_copy(update={"pid": 1})) == "still going"  # 1 began before it
    early = {"pid": os.getpid(), "started": "2001-01-01T00:00:00.000Z"}
    assert ending(run.model_copy(update=early)) == "killed"
    away = run.model_copy(update={"controller": "ann@elsewhere"})
    assert ending(away) == "no end recorded; it ran on ann@elsewhere"


def test_a_pending_host_keeps_its_older_verdict(root: Path, capsys: Captured) -> None:
    Run(root, ["gpufleet", "verify", "lab.py"], inventory="lab.py", hosts=["gpu6"]).end(
        None, "interrupted"
    )
    main(["status"])
    text = capsys.readouterr().out
    assert "interrupted: 1 pending" in text
    assert "unreachable  gpu6 " in text


def test_a_directory_that_is_no_run_is_named(root: Path, capsys: Captured) -> None:
    (root / "20990101T000000Z").mkdir()
    (root / "20990101T000000Z/run.json").write_text('{"version": "\x1b[31m"}')
    assert main(["status"]) == 0
    text = capsys.readouterr().out
    assert "runs/20990101T000000Z: is no run: " in text
    assert "\x1b" not in text


def test_report_renders_the_newest_run_again(root: Path, capsys: Captured, tmp_path: Path) -> None:
    before = files(root)
    first, second = ids(root)
    assert main(["report"]) == 0
    assert f"record: runs/{second}\n" in capsys.readouterr().out
    html, plain = tmp_path / "x.html", tmp_path / "x.json"
    assert main(["report", first, "--html", str(html), "--json", str(plain)]) == 0
    said = capsys.readouterr()
    assert "lab: 6 hosts: 3 fail, 1 hung, 1 unreachable, 1 pass" in said.out
    assert html.read_text().startswith("<!doctype html>")
    assert json.loads(plain.read_text())["run"]["id"] == first
    assert files(root) == before
    assert main(["report", str(root / first)]) == 0


def test_json_on_stdout_is_nothing_but_json(root: Path, capsys: Captured) -> None:
    assert main(["report", ids(root)[0], "--json"]) == 0
    said = capsys.readouterr()
    document = json.loads(said.out)
    assert "lab: 6 hosts" in said.err
    assert document["version"] == 1
    assert document["exit"] == 1
    assert document["summary"]["verdicts"] == {"fail": 3, "hung": 1, "unreachable": 1, "pass": 1}
    assert [one["check"] for one in document["findings"]] == [
        *("gpu.answers", "nvml.answers", "gpu.remap-pending"),
        *("stack.packages", "host.reachable"),
    ]
    assert document["findings"][3]["mend"] == "gpufleet apply lab.py --limit gpu4"
    hosts = document["hosts"]
    assert list(hosts) == ["gpu1", "gpu2", "gpu3", "gpu4", "gpu5", "gpu6"]
    [found] = hosts["gpu3"]["findings"]
    assert found["component"]["index"] == 5
    assert found["silenced"] == ["gpu.ecc", "gpu.remap-pending", "gpu.xid", "gpu.pcie-width"]
    assert found["again"] == "gpufleet verify lab.py --limit gpu3 --check gpu.answers"
    assert hosts["gpu6"]["result"] is None
    assert len(hosts["gpu1"]["result"]["gpus"]) == 8
    assert hosts["gpu1"]["result"]["not_asked"][0]["reason"] == "asked at level standard"


@pytest.mark.parametrize("option", ["--html", "--json"])
def test_a_file_that_cannot_be_written_is_wrong_input(
    root: Path, capsys: Captured, option: str
) -> None:
    assert main(["report", option, "/nowhere/x"]) == 2
    said = capsys.readouterr()
    assert f"report: {option}: found /nowhere/x: it cannot be written" in said.err


def test_explain_tells_a_host_with_every_finding_whole(root: Path, capsys: Captured) -> None:
    assert main(["explain", "gpu3"]) == 0
    text = capsys.readouterr().out
    first = ids(root)[0]
    assert text.startswith(f"gpu3: fail ({first}, ")
    assert "1. fail: gpu3: GPU 5: gpu.answers\n" in text
    assert "8 checks held: host.self-name, host.disk, gpu.count" in text
    assert "not asked: train.ended: asked at level standard\n" in text
    assert "again: gpufleet verify lab.py --limit gpu3 --check gpu.answers\n" in text


def test_explain_takes_the_newest_run_that_has_the_host(root: Path, capsys: Captured) -> None:
    first, second = ids(root)
    main(["explain", "gpu2"])
    assert capsys.readouterr().out.startswith(f"gpu2: pass ({second}, ")
    main(["explain", "gpu2", first])
    assert capsys.readouterr().out.startswith(f"gpu2: fail ({first}, ")


@pytest.mark.long
def test_every_check_can_be_explained(tmp_path: Path, capsys: Captured) -> None:
    every = catalogue()
    assert {"gpu.answers", "nvml.answers", "host.reachable", "stack.packages"} <= set(every)
    for name, check in every.items():
        assert main(["explain", name]) == 0
        text = " ".join(capsys.readouterr().out.split())
        assert text.startswith(f"{name} {check.claim}")
        assert check.source in text
        assert f"gpufleet verify INVENTORY --check {name}" in text


def test_advice_names_checks_that_exist() -> None:
    assert set(catalogue()) >= MENDED_BY_APPLY | {IDENTITY, REACHABLE}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["explain", "gpu.ansers"], "nearest: gpu.answers"),
        (["explain", "gpu33"], "gpu33: is no check, and no host of a verify run"),
        (["explain", "gpu3", "20010101T000000Z"], "20010101T000000Z: is no run directory; there"),
        (["explain", "\x1b[2Jx"], "explain: x: is no check"),
        (["report", "nope"], "nope: is no run directory; there are "),
        (["status", "/"], "run.json: No such file or directory"),
    ],
    ids=range(6),
)
def test_unknown_names_come_back_with_the_nearest(
    root: Path, capsys: Captured, words: list[str], message: str
) -> None:
    assert main(words) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert message in said.err


def test_without_any_run_the_way_to_one_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    monkeypatch.chdir(tmp_path)
    for words in (["status"], ["report"]):
        assert main(words) == 2
        assert "gpufleet" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0, "0 s"),
        (119, "119 s"),
        (120, "2 min"),
        (7199, "120 min"),
        (7200, "2 h"),
        (9e5, "10 days"),
    ],
)
def test_ages_are_for_people(seconds: float, said: str) -> None:
    then = datetime(2026, 1, 1, tzinfo=UTC)
    assert ago(then.isoformat(), then + timedelta(seconds=seconds)) == said


def test_a_time_that_is_none_has_no_age(root: Path) -> None:
    assert ago("yesterday") == "?"
    assert ago("2026-01-01T00:00:00") == "?"  # without a zone it is no time of ours
    assert ago(now()) == "0 s"
    assert isinstance(read_run(root / ids(root)[0]), RunFile)
