"""What reports tell besides findings: waived ones, other baselines, and what is worth reading."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from deploy.cli import main
from deploy.fleet.spec import Waiver
from tests.verified import document, finding, gpu, healthy, part, recorded
from verify.judge import judge
from verify.judging.waiving import waive
from verify.report.cells import cells
from verify.report.document import document as as_json
from verify.report.html import page
from verify.report.read import look, read_view
from verify.report.terminal import show
from verify.report.view import View
from verify.results import HostResult, HostVerification
from verify.runner import Answer

TICKET = Waiver(check="gpu.ecc", gpu="3", owner="ops", reason="ticket 4711", until="2026-12-31")


def accepted(host: str = "gpu2") -> HostVerification:
    """A host whose only finding is waived."""
    broken = finding(part(gpu(3, host)), what="errors", found="12", expected="0", action="service")
    result = HostResult.model_validate(document(host, {"gpu.ecc": [broken]}))
    return judge(Answer(host, waive(result, [TICKET], "2026-11-22")))


def slow(host: str = "gpu3") -> HostVerification:
    """A host with a finding that baselines disagree about."""
    row = finding(
        part(gpu(1, host)),
        what="matmul (bf16)",
        found="629 TFLOPS",
        expected="at least 666 TFLOPS",
        verdict="degraded",
        baseline="neighbours",
        others=["neighbours: -15% of the median of 32 (740 TFLOPS)", "physics: fine (>= 593)"],
    )
    told = ["beside its last good run of 2026-10-01 (driver 550 -> 580):"]
    made = document(host, {"perf.compute": [row]}, information=told)
    return judge(Answer(host, HostResult.model_validate(made)))


def view(tmp_path: Path) -> View:
    hosts = [healthy("gpu1"), accepted(), slow()]
    return read_view(look(recorded(tmp_path, hosts, exit=0)))


def test_the_terminal_shows_waived_findings_under_a_heading_of_their_own(tmp_path: Path) -> None:
    stream = io.StringIO()
    show(view(tmp_path), stream)
    text = stream.getvalue()
    assert "degraded  gpu2         1 waived finding\n" in text
    for wanted in (
        "1. degraded: gpu3: GPU 1: perf.compute\n",
        "1 waived finding, shown and not counted:\n",
        "fail: gpu2: GPU 3: gpu.ecc: waived by ops until 2026-12-31: ticket 4711\n",
        "errors: found 12, expected 0\n",
        "found 629 TFLOPS, expected at least 666 TFLOPS (by its equal",
        "also by neighbours: -15% of the median of 32 (740 TFLOPS)\n",
        "also by physics: fine (>= 593)\n",
        "told: gpu3: beside its last good run of 2026-10-01 (driver 550 -> 580):\n",
    ):
        assert wanted in text, wanted
    assert "gpu.ecc" not in text.partition("1 waived finding, shown")[0].partition("1. ")[2]


def test_machines_read_the_same(tmp_path: Path) -> None:
    made = as_json(view(tmp_path))
    assert [one["check"] for one in made["findings"]] == ["perf.compute"]
    two, three = made["hosts"]["gpu2"], made["hosts"]["gpu3"]
    assert (two["verdict"], two["message"], two["findings"]) == ("degraded", "1 waived finding", [])
    (one,) = two["waived"]
    assert one["waived"] == {"owner": "ops", "reason": "ticket 4711", "until": "2026-12-31"}
    assert (one["verdict"], one["action"]) == ("fail", "service")
    (one,) = three["findings"]
    assert one["others"][1] == "physics: fine (>= 593)"


def test_the_page_has_them_too(tmp_path: Path) -> None:
    text = page(view(tmp_path))
    assert "Waived: shown, and not counted" in text
    assert "waived by ops until 2026-12-31: ticket 4711" in text
    assert "also by physics: fine (&gt;= 593)" in text
    assert "Worth reading" in text
    clean = page(read_view(look(recorded(tmp_path, [healthy("gpu1")], exit=0))))
    assert "Waived" not in clean
    assert "Worth reading" not in clean


def test_the_cell_of_a_waived_gpu_is_degraded() -> None:
    assert [cell.verdict for cell in cells(accepted())][3] == "degraded"


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """One run below runs/ of the current folder."""
    monkeypatch.chdir(tmp_path)
    recorded(tmp_path / "runs", [healthy("gpu1"), accepted(), slow()], exit=0)
    return tmp_path


def test_a_finding_is_explained_by_its_number_in_the_report(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["explain", "finding-1"]) == 0
    text = capsys.readouterr().out
    for wanted in (
        "1. degraded: gpu3: GPU 1: perf.compute\n",
        "also by physics: fine (>= 593)\n",
        "again: gpufleet verify lab.py --level standard --check perf.compute\n",
        "Every GPU multiplies matrices as fast as its model",
        "one GPU multiplies at two thirds of its equals' speed, in tests, turns\n",
    ):
        assert wanted in text, wanted
    assert main(["explain", "finding-2"]) == 2
    assert "has findings 1 to 1" in capsys.readouterr().err


def test_a_host_s_waived_findings_are_explained_with_who_waived_them(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["explain", "gpu2"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "waived by ops until 2026-12-31: ticket 4711: fail: gpu.ecc: GPU 3: errors" in said
