"""The HTML page in a real browser: the broken GPU is red, and only it; nothing is requested.

Needs Chromium, which tests/setup.sh installs. Pictures are kept as build/report-*.png. The one in
docs/ is made as tests/browser.py says.
"""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.browser import areas, browse, dom, draw, program, read_png, watched
from tests.test_report_html import EVIL, Page
from tests.verified import document, finding, gpu, healthy, part, recorded, remap_pending, verified
from verify.report.html import page
from verify.report.read import look, read_view
from verify.results import HostVerification

BUILD = Path(__file__).parent.parent / "build"
SHEET = (Path(__file__).parent.parent / "verify/report/page.css").read_text()
CELL = 28
"""Pixels of a GPU's cell in a small fleet (page.css, .roomy)."""

pytestmark = pytest.mark.browser


def colour(name: str) -> bytes:
    """A colour of the light theme, as pixels have it."""
    found = re.search(rf"--{name}: #([0-9a-f]{{6}})", SHEET)
    assert found, name
    return bytes.fromhex(found[1])


def may_be_root() -> bool:
    if os.geteuid() == 0:
        return True
    sudo = shutil.which("sudo")
    return bool(sudo) and subprocess.run([sudo, "-n", "true"], capture_output=True).returncode == 0


@pytest.fixture(scope="module", autouse=True)
def browser() -> None:
    if program() is None:
        if may_be_root():
            pytest.fail("no Chromium here: make setup installs it")
        pytest.skip("no Chromium here, and installing it needs root")
    BUILD.mkdir(exist_ok=True)


def written(tmp_path: Path, hosts: list[HostVerification]) -> Path:
    place = tmp_path / "report.html"
    place.write_text(page(read_view(look(recorded(tmp_path / "runs", hosts)))), encoding="utf-8")
    return place


def fleet() -> list[HostVerification]:
    return [healthy("gpu1"), remap_pending("gpu2", 3), healthy("l40s1", gpus=4)]


def test_the_broken_gpu_is_red_and_only_it(tmp_path: Path) -> None:
    place = written(tmp_path, fleet())
    cells = Page(dom(place)).all("data-gpu")
    assert len(cells) == 20
    [bad] = [one for one in cells if one["data-verdict"] != "pass"]
    assert (bad["data-host"], bad["data-gpu"], bad["class"]) == ("gpu2", "3", "gpu fail")

    picture = BUILD / "report-broken-gpu.png"
    draw(place, picture, 1000, 560)
    rows = read_png(picture)
    drawn = {name: areas(rows, colour(name)).count((CELL, CELL)) for name in ("fail", "pass")}
    assert drawn == {"fail": 1, "pass": 19}
    assert areas(rows, colour("hung")).count((CELL, CELL)) == 0


def test_a_healthy_fleet_has_no_red_in_it(tmp_path: Path) -> None:
    picture = BUILD / "report-healthy.png"
    draw(written(tmp_path, [healthy("gpu1")]), picture, 800, 460)
    rows = read_png(picture)
    assert areas(rows, colour("pass")).count((CELL, CELL)) == 8
    assert [size for size in areas(rows, colour("fail")) if size != (16, 16)] == []  # the legend's


def evil() -> list[HostVerification]:
    text = "".join(EVIL)[:200]
    bad = part(gpu(0) | {"name": text, "serial": text})
    row = finding(bad, what=text, found="x" * 900, expected=text, evidence=[text * 4, "x" * 999])
    result = document("gpu1", {"gpu.ecc": [row]}, gpus=1, user=text, busy=[text])
    return [verified(result, "fail", message=text), healthy("a" * 63)]


def test_nothing_is_requested_and_nothing_runs(tmp_path: Path) -> None:
    place = written(tmp_path, evil())
    control = tmp_path / "control.html"
    control.write_text('<img src="http://evil.example/control">')
    with watched() as (proxy, lines):
        browse(control, f"--proxy-server={proxy}", "--dump-dom")
        assert [line for line in lines if "evil.example/control" in line]  # it would be seen
        lines.clear()
        seen = browse(place, f"--proxy-server={proxy}", "--dump-dom")
    assert [line for line in lines if "evil.example" in line] == []
    names = {name for name, _ in Page(seen).elements}
    assert names.isdisjoint({"script", "img", "link", "iframe"})


def test_it_fits_a_telephone_whatever_stands_in_it(tmp_path: Path) -> None:
    picture = BUILD / "report-narrow.png"
    draw(written(tmp_path, evil()), picture, 400, 2400)
    paper = colour("paper")
    margin = {pixel for row in read_png(picture) for pixel in row[-10:]}
    assert margin == {paper}
