"""A bundle run on this machine as it runs on a host: a request in, one line out."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest

from tests import reported
from verify import onhost, own
from verify.bundle import bundle
from verify.report.catalogue import catalogue
from verify.results import HostResult

ODD = '''
import sys

from verify.checks import HOST, check


@check("odd.raises", source="a test", fault="none")
def test_raises(report):
    """This check stumbles."""
    print("GPUFLEET {}")
    raise KeyError("what nobody thought of")


@check("odd.blind", source="a test", fault="none")
def test_blind(look):
    """This check looks at nothing."""
    sys.stdout.write("GPUFLEET {}\\n")


@check("odd.measures", source="a test", fault="none")
def test_measures(look, measure, within):
    """This check runs a command and measures."""
    ran = within(5, "sh", "-c", "echo $((6 * 7))")
    measure("answer", "1", int(ran["out"]), HOST, by="sh")
    look.at(HOST, "the answer", found=ran["out"].strip(), expected="42")


@check("odd.later", source="a test", fault="none", level="standard")
def test_later(look):
    """This check is asked at a higher level."""
    raise AssertionError("it was asked")


@check("odd.absent", source="a test", fault="none")
def test_absent(not_asked):
    """This check is about what is not there."""
    not_asked("this torch has no such thing")
    raise AssertionError("it went on")


@check("odd.turns", source="a test", fault="none")
def test_turns(look, not_asked):
    """This check would take back what it saw."""
    look.at(HOST, "the answer", found=41, expected=42)
    not_asked("it does not matter")
'''
"""Checks that are not as checks should be, in place of the bundle's own."""


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle as it lies on a host."""
    folder = tmp_path_factory.mktemp("bundle")
    with tarfile.open(fileobj=io.BytesIO(bundle().archive)) as archive:
        archive.extractall(folder, filter="data")
    return folder


@pytest.fixture
def odd(unpacked: Path, tmp_path: Path) -> Path:
    """A bundle whose only checks are odd."""
    folder = tmp_path / "bundle"
    (folder / "verify").mkdir(parents=True)
    (folder / "lib").symlink_to(unpacked / "lib")
    for path in (unpacked / "verify").iterdir():
        if not path.name.startswith("test_"):
            (folder / "verify" / path.name).symlink_to(path)
    # Found by its own path, a module would be looked for where the link leads.
    for name in ("onhost.py", "conftest.py", "__init__.py", "there.py"):
        (folder / "verify" / name).unlink()
        (folder / "verify" / name).write_text((unpacked / "verify" / name).read_text())
    (folder / "verify/test_odd.py").write_text(ODD)
    return folder


def run(folder: Path, request: object, **environment: str) -> subprocess.CompletedProcess[str]:
    """onhost.py as launch.sh starts it."""
    return subprocess.run(
        [sys.executable, "-I", "-S", "-B", str(folder / "verify/onhost.py")],
        input=json.dumps(request),
        capture_output=True,
        text=True,
        timeout=60,
        cwd="/",
        env={**os.environ, **environment},
    )


def document(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("GPUFLEET ")
    assert done.stdout.count("\n") == 1
    found: dict[str, Any] = json.loads(done.stdout.removeprefix("GPUFLEET "))
    return found


def test_a_host_answers_with_one_document_that_the_controller_takes(
    unpacked: Path, tmp_path: Path
) -> None:
    request = reported.request(prefix=str(tmp_path))
    found = document(run(unpacked, request, PYTEST_ADDOPTS="--nonsense", PYTEST_PLUGINS="none"))
    result = HostResult.model_validate_json(json.dumps(found))
    assert (result.nonce, result.host, result.level) == ("4f1c", "h1", "quick")
    assert result.bundle == bundle().id
    asked = {check.id for check in result.checks}
    assert {"host.self-name", "host.disk"} <= asked

    on_hosts = {id for id, one in catalogue().items() if one.where == "host"}
    assert asked | {one.id for one in result.not_asked} == on_hosts
    assert all(one.reason for one in result.not_asked)
    assert all(check.looked_at for check in result.checks)


@pytest.mark.long
def test_only_what_is_asked_for_is_asked(unpacked: Path, tmp_path: Path) -> None:
    request = reported.request(prefix=str(tmp_path), checks=["host.disk", "gpu.ecc"])
    found = document(run(unpacked, request))
    ids = {one["id"] for one in (*found["checks"], *found["not_asked"])}
    assert ids == {"host.disk", "gpu.ecc"}
    refused = run(unpacked, {**request, "checks": ["host.disk", "gpu.warp"]})
    assert refused.returncode == 2
    assert refused.stdout == ""
    assert "no check gpu.warp" in refused.stderr


def test_what_raises_or_sees_nothing_did_not_run(odd: Path, tmp_path: Path) -> None:
    found = document(run(odd, reported.request(prefix=str(tmp_path))))
    HostResult.model_validate_json(json.dumps(found))
    checks = {one["id"]: one for one in found["checks"]}
    assert checks["odd.raises"]["verdict"] == checks["odd.blind"]["verdict"] == "not-run"
    assert "KeyError: 'what nobody thought of'" in checks["odd.raises"]["findings"][0]["found"]
    assert checks["odd.blind"]["findings"][0]["found"] == "it looked at nothing"
    assert checks["odd.measures"]["verdict"] == "pass"
    (figure,) = found["measurements"]
    assert (figure["name"], figure["value"], figure["conditions"]) == ("answer", 42.0, {"by": "sh"})
    reasons = {one["id"]: one["reason"] for one in found["not_asked"]}
    assert set(reasons) == {"odd.later", "odd.absent"}
    assert "standard" in reasons["odd.later"]
    assert reasons["odd.absent"] == "this torch has no such thing"
    assert checks["odd.turns"]["verdict"] == "fail"
    assert "looked, and then was not asked" in checks["odd.turns"]["findings"][1]["found"]


def test_checks_that_cannot_be_read_are_said_and_not_left_out(odd: Path, tmp_path: Path) -> None:
    (odd / "verify/test_worse.py").write_text("import nothing_of_this_name\n")
    done = run(odd, reported.request(prefix=str(tmp_path)))
    assert (done.returncode, done.stdout) == (1, "")
    assert "nothing_of_this_name" in done.stderr


def test_a_host_without_a_report_says_so(odd: Path, tmp_path: Path) -> None:
    (odd / "verify/payload").unlink()
    (odd / "verify/payload").mkdir()
    (odd / "verify/payload/host_report.py").write_text("print('nothing of use')\n")
    done = run(odd, reported.request(prefix=str(tmp_path)))
    assert (done.returncode, done.stdout) == (1, "")
    assert "host_report.py gave 0 answers" in done.stderr


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"schema": 2}, "schema"),
        ({"level": "heroic"}, "level"),
        ({"level": None, "checks": "all"}, "checks, level"),
        ({"prefix": 1}, "prefix"),
        ({"expected": {"version": 7}}, "version 7"),
        ({"expected": {**reported.expected("v100"), "gpus": "4"}}, "gpus is str"),
    ],
)
def test_a_wrong_request_is_refused(change: dict[str, Any], named: str) -> None:
    with pytest.raises(onhost.WrongRequest, match=named):
        onhost.request_of(json.dumps(reported.request(**change)))
    assert onhost.request_of(json.dumps(reported.request()))["host"] == "h1"


def test_a_request_that_is_no_json_is_refused() -> None:
    with pytest.raises(onhost.WrongRequest, match="JSON"):
        onhost.request_of("{")


# ---- the record of a good run


def verdicts(**of: str) -> dict[str, Any]:
    good = {"nvml.answers": "pass", "gpu.count": "pass", "gpu.answers": "pass"}
    given = {id.replace("_", ".", 1): verdict for id, verdict in of.items()}
    checks = [{"id": id, "verdict": verdict} for id, verdict in {**good, **given}.items()]
    return {"checks": checks, "gpus": [{"index": 0}]}


def test_a_run_is_good_when_all_that_asks_about_gpus_held() -> None:
    assert onhost.good_run(verdicts(gpu_ecc="pass", host_disk="fail"), False)
    assert not onhost.good_run(verdicts(gpu_ecc="degraded"), False)
    assert not onhost.good_run(verdicts(gpu_count="not-run"), False)
    assert not onhost.good_run({**verdicts(), "gpus": []}, False)
    alone = {"checks": [{"id": "gpu.ecc", "verdict": "pass"}], "gpus": [{"index": 0}]}
    assert not onhost.good_run(alone, False)  # nobody asked whether all GPUs are there
    other = verdicts(gpu_identity="degraded")
    assert not onhost.good_run(other, False)
    assert onhost.good_run(other, True)
    assert not onhost.good_run(verdicts(gpu_identity="degraded", gpu_ecc="fail"), True)


def test_a_record_is_kept_whole_and_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    record = own.new_record(reported.report("v100")["nvml"]["gpus"], "2026-11-22", "6c3f")
    path = own.keep_record(record, str(tmp_path))
    assert path == f"{tmp_path}/verified.json"
    assert os.listdir(tmp_path) == ["verified.json"]
    assert Path(path).stat().st_mode & 0o777 == 0o644
    local = _local()
    assert own.own_record(local, str(tmp_path)) == record
    Path(path).write_text('{"schema": 1, "gpus": [{"uuid": 5}]}')
    with pytest.raises(own.Unusable, match="no record"):
        own.own_record(local, str(tmp_path))
    Path(path).write_text("[1")
    with pytest.raises(own.Unusable, match="no JSON"):
        own.own_record(local, str(tmp_path))


def test_a_prefix_with_a_state_of_its_own_goes_before_the_systems(tmp_path: Path) -> None:
    state = {**reported.expected("v100"), "prefix": str(tmp_path)}
    (tmp_path / "expected.json").write_text(json.dumps(state))
    found, path = own.own_expected(_local(), str(tmp_path))
    assert found == state
    assert path == f"{tmp_path}/expected.json"


def _local() -> Any:
    import testinfra

    return testinfra.get_host("local://")


def test_half_a_character_costs_a_question_mark_and_not_the_answer() -> None:
    said = onhost.line({"busy": ["caf\u00e9 \udcff (pid 1)"]})
    assert said.isascii()
    assert json.loads(said.removeprefix("GPUFLEET ")) == {"busy": ["caf\u00e9 ? (pid 1)"]}


# ---- plain pytest


def pytest_on(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pytest", "verify", "-q", "-p", "no:cacheprovider", *arguments],
        capture_output=True,
        text=True,
        timeout=90,
        cwd=Path(__file__).parent.parent,
    )


@pytest.mark.long
def test_plain_pytest_says_what_it_holds_a_host_against(tmp_path: Path) -> None:
    file = tmp_path / "expected.json"
    state = {**reported.expected("none"), "prefix": f"{tmp_path}/there", "environment": None}
    file.write_text(json.dumps(state))
    done = pytest_on("--hosts=local://", f"--expected={file}")
    assert f"local: expected state from {file}, stack 6c3fac5c0937" in done.stdout
    assert "not asked: no Python environment is expected on this host" in done.stdout
    # This machine was given another state than its own: that it has none is seen.
    assert "host.expected: degraded: host: the host's own expected state" in done.stdout
    assert done.returncode == 1


@pytest.mark.long
@pytest.mark.parametrize("content", [None, "[]", '{"version": 9}'])
def test_plain_pytest_refuses_a_state_that_it_cannot_use(
    tmp_path: Path, content: str | None
) -> None:
    file = tmp_path / "expected.json"
    if content is not None:
        file.write_text(content)
    done = pytest_on("--hosts=local://", f"--expected={file}")
    assert done.returncode == 4
    assert f"--expected {file}:" in done.stderr
    assert "INTERNALERROR" not in done.stdout + done.stderr


@pytest.mark.long
def test_plain_pytest_with_a_host_that_does_not_answer_passes_nothing() -> None:
    done = pytest_on("--hosts=ssh://nobody.invalid")
    assert done.returncode == 1
    assert "does not answer" in done.stdout
    assert "passed" not in done.stdout
