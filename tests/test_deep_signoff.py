"""The sign-off of level deep on the page and on the terminal, and how an open run is shown."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from deploy.cli import main
from tests.verified import document, gpu, healthy, part, recorded, verified
from verify.deep import Open, Waits
from verify.report.html import page
from verify.report.plots import plots
from verify.report.read import look, read_view
from verify.report.signoff import curves, signed
from verify.results import HostVerification

Captured = pytest.CaptureFixture[str]


def figure(name: str, unit: str, value: float, **conditions: str) -> dict[str, Any]:
    return {
        "name": name, "unit": unit, "value": value, "component": part(gpu(0)),
        "conditions": conditions,
    }  # fmt: skip


POINTS = [figure("soak.temperature", "C", 60.0 + at, at_s=f"{at}") for at in range(24)]
TOTALS = [figure("soak.seconds", "s", 900.0), figure("soak.memory-rounds", "rounds", 12.0)]


def deep(**more: Any) -> HostVerification:
    values: dict[str, Any] = {"level": "deep", "measurements": [*TOTALS, *POINTS], **more}
    return verified(document("gpu1", **values))


def test_a_host_is_signed_off_with_what_was_proven_and_what_was_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    monkeypatch.chdir(tmp_path)
    recorded(tmp_path / "runs", [deep(), healthy("gpu2")], exit=0)
    assert main(["report"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert text.count("sign-off of") == 1
    for words in (
        gpu(0)["serial"], "Proven (13)", "Not proven (3)", "asked at level standard", "900 s",
        "stack 1a3364fb500a", "bundle bbbbbbbbbbbbbbbb", "Signed:",
    ):  # fmt: skip
        assert words in text, words


def test_the_page_draws_curves_once_and_nothing_of_a_host_is_markup(tmp_path: Path) -> None:
    hostile = [{"id": "x.y", "reason": "<script>alert(1)</script>"}]
    view = read_view(look(recorded(tmp_path, [deep(not_asked=hostile)], exit=0)))
    (one,) = signed(view)
    assert one.result is not None
    assert {len(points) for points in curves(one.result).values()} == {24}
    assert {plot.name for plot in plots(view)} == {"soak.seconds", "soak.memory-rounds"}
    text = page(view)
    assert text.count("<polyline") == 1
    assert "<script>" not in text
    assert "&lt;script&gt;" in text


def test_what_proves_nothing_about_gpus_says_so(tmp_path: Path) -> None:
    on_cpu = [figure("soak.seconds", "s", 60.0, device="cpu")]
    told = ["the soak was changed on purpose: shortened to 8 s"]
    one = deep(measurements=on_cpu, simulated=True, information=told)
    text = page(read_view(look(recorded(tmp_path, [one], exit=0))))
    for words in ("SIMULATED HARDWARE", "loaded the CPU, and no GPU", "shortened to 8 s"):
        assert words in text


def test_a_run_of_another_level_has_no_sign_off(tmp_path: Path) -> None:
    text = page(read_view(look(recorded(tmp_path, [healthy()], exit=0))))
    assert "sign-off" not in text


# ---- status


@pytest.fixture
def open_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    place = recorded(tmp_path / "runs", [healthy()], exit=4)
    hosts = {"gpu1": Waits(nonce="n", prefix="/opt/gpufleet")}
    opened = Open(run=place.name, bundle="b", asked=(), known=(), minutes=15, hosts=hosts)
    (place / "deep.json").write_text(opened.model_dump_json())
    return place


def test_status_names_what_is_not_collected(open_run: Path, capsys: Captured) -> None:
    assert main(["status"]) == 0
    text = capsys.readouterr().out
    assert f"level deep not collected from gpu1: gpufleet status {open_run.name}" in text


def test_a_broken_deep_json_is_no_open_run(open_run: Path, capsys: Captured) -> None:
    (open_run / "deep.json").write_text('{"version": 9}')
    assert main(["status", open_run.name]) == 0
    assert "not collected" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--stop"], "needs RUN or --inventory"),
        (["--limit", "gpu1"], "is for --inventory alone"),
        (["RUN", "--inventory", "lab.py"], "exclude each other"),
        (["nope", "--stop"], "is no run directory"),
    ],
)
def test_options_that_cannot_be_meant(
    open_run: Path, words: list[str], says: str, capsys: Captured
) -> None:
    assert main(["status", *words]) == 2
    assert says in capsys.readouterr().err
