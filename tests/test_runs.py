"""The run directory is readable at every moment, also of a run that was killed."""

import json
from pathlib import Path

import pytest

from deploy.fleet import runs
from deploy.fleet.redact import Redactor
from deploy.fleet.runs import Run, file_name, printable, read_run


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(
        tmp_path / "runs",
        ["gpufleet", "apply", "lab.py"],
        inventory="lab.py",
        hosts=["a", "b"],
        redact=Redactor(["c4nary"]),
    )


def events(run: Run) -> list[dict[str, object]]:
    return [json.loads(line) for line in (run.directory / "journal.jsonl").read_text().splitlines()]


def test_a_killed_run_reads_as_running_with_its_hosts_pending(run: Run) -> None:
    run.event("plan", "a", steps=["x"])
    found = read_run(run.directory)  # nothing was closed: as after kill -9
    assert (found.version, found.state, found.exit, found.ended) == (1, "running", None, "")
    assert found.hosts == {"a": "pending", "b": "pending"}
    assert [event["event"] for event in events(run)] == ["run-started", "plan"]


def test_results_and_end_are_recorded(run: Run) -> None:
    run.locked_to("sha256:1")
    run.log("a").line("some output")
    run.result("a", "converged", message="", changed=["x"])
    run.end(0, "interrupted")
    run.end(1, "finished")  # the first end counts
    found = read_run(run.directory)
    assert (found.state, found.exit, found.lock) == ("interrupted", 0, "sha256:1")
    assert found.hosts == {"a": "converged", "b": "pending"}
    document = json.loads((run.directory / "hosts/a.json").read_text())
    assert document == {
        "version": 1,
        "host": "a",
        "status": "converged",
        "message": "",
        "changed": ["x"],
    }
    assert events(run)[-1]["event"] == "run-ended"
    assert (run.directory / "logs/a.log").read_text() == "some output\n"


def test_every_channel_is_redacted(run: Run) -> None:
    run.event("note", "a", text="c4nary", deep={"k": ["c4nary"]})
    run.log("a").line("password c4nary")
    run.result("a", "failed", message="c4nary was refused", tail=["c4nary"])
    run.end(1, "finished")
    for path in run.directory.rglob("*"):
        assert path.is_dir() or "c4nary" not in path.read_text(), path


def test_runs_in_one_second_have_their_own_directories(tmp_path: Path) -> None:
    made = [Run(tmp_path, ["x"], inventory="", hosts=[]) for _ in range(3)]
    assert len({run.directory for run in made}) == 3
    assert sorted(run.id for run in made)[0].endswith("Z")


def test_a_log_keeps_its_beginning_and_its_end(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runs, "LOG_LIMIT", 100)
    monkeypatch.setattr(runs, "LOG_TAIL", 3)
    log = run.log("b")
    for number in range(50):
        log.line(f"line {number}")
    log.close()
    kept = log.path.read_text().splitlines()
    assert kept[0] == "line 0"
    assert kept[-3:] == ["line 47", "line 48", "line 49"]
    assert "lines left out here" in kept[-4]
    assert len(kept) < 20


@pytest.mark.parametrize("name", ["../../etc/x", "@docker/box:1", "a/b", "..", "@chroot//srv/x"])
def test_no_host_name_leaves_the_directory(name: str) -> None:
    made = file_name(name)
    assert "/" not in made
    assert ".." not in made


def test_two_names_are_two_files() -> None:
    names = ["@fake/a", "@fake%2Fa", "..a", "%2E%2Ea"]
    assert len({file_name(name) for name in names}) == len(names)


def test_what_a_terminal_would_obey_is_taken_out() -> None:
    assert printable("\x1b[31mred\x1b[0m \x1b]0;title\x07x\r\n\x9b1m") == "red x1m"
    assert printable("tab\tund Umlaut ä") == "tab\tund Umlaut ä"


def test_what_reorders_or_hides_text_is_taken_out() -> None:
    assert printable("gpu\u202e3 tset\u2066\u200b\ufeff \ud800\u2029end") == "gpu3 tset end"
    assert printable("שלום") == "שלום"
