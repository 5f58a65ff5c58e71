"""The HTML page: what is in it, and what no text of a host can do to it."""

import re
from collections.abc import Iterable
from html.parser import HTMLParser
from pathlib import Path

import pytest

from tests.verified import (
    document,
    drifted,
    finding,
    gpu,
    healthy,
    hung,
    lost_gpu,
    recorded,
    remap_pending,
    unreachable,
    verified,
)
from verify.report import fleet as fleet_module
from verify.report import plots as plots_module
from verify.report.cells import UNASKED, cells
from verify.report.html import page, write_page
from verify.report.markup import tag
from verify.report.plots import drawn, plots
from verify.report.read import look, read_view
from verify.report.view import View
from verify.results import HostVerification

Attributes = dict[str, str | None]


class Page(HTMLParser):
    """Elements and text of a page, and whether every element is closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, Attributes]] = []
        self.words: list[str] = []
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, name: str, attributes: list[tuple[str, str | None]]) -> None:
        self.elements.append((name, dict(attributes)))
        if name not in ("meta", "br"):
            self._open.append(name)

    def handle_endtag(self, name: str) -> None:
        assert self._open.pop() == name

    def handle_data(self, text: str) -> None:
        self.words.append(text)

    def all(self, key: str) -> list[Attributes]:
        return [attributes for _, attributes in self.elements if key in attributes]


def view_of(tmp_path: Path, hosts: Iterable[HostVerification], exit: int = 1) -> View:
    return read_view(look(recorded(tmp_path, hosts, exit=exit)))


def rendered(tmp_path: Path, hosts: Iterable[HostVerification]) -> Page:
    return Page(page(view_of(tmp_path, hosts)))


def measured(host: str, values: Iterable[float]) -> dict[str, object]:
    figures = [
        {
            "name": "train.throughput",
            "unit": "samples/s",
            "value": value,
            "component": {"kind": "rank", "index": rank},
            "conditions": {"backend": "nccl"},
        }
        for rank, value in enumerate(values)
    ]
    return document(host, measurements=figures)


def test_the_broken_gpu_is_the_only_cell_that_fails(tmp_path: Path) -> None:
    found = rendered(tmp_path, [healthy("gpu1"), remap_pending("gpu2", 3)])
    cells = {(one["data-host"], one["data-gpu"]): one for one in found.all("data-gpu")}
    assert len(cells) == 16
    bad = {at for at, one in cells.items() if one["data-verdict"] != "pass"}
    assert bad == {("gpu2", "3")}
    broken = cells["gpu2", "3"]
    assert broken["class"] == "gpu fail"
    assert str(broken["title"]).startswith("gpu2 GPU 3: fail: gpu.remap-pending; ")
    assert gpu(3, "gpu2")["uuid"] in str(broken["title"])
    target = str(broken["href"]).removeprefix("#")
    assert [one["class"] for one in found.all("id") if one["id"] == target] == ["finding fail"]


def test_the_page_says_what_the_terminal_says(tmp_path: Path) -> None:
    fleet = [healthy("gpu1", simulated=True), lost_gpu("gpu3"), drifted("gpu4"), unreachable()]
    text = " ".join(" ".join(rendered(tmp_path, fleet).words).split())
    for wanted in (
        "3 of 4 hosts did not pass",
        "Simulated hardware (gpu1).",
        "4 checks could not look at GPU 5 because of it: gpu.ecc",
        "version of libnccl2: found 2.27.3-1+cuda13.0, expected 2.29.7-1+cuda13.0 (by the lock)",
        "gpufleet apply lab.py --limit gpu4",
        "gpufleet verify lab.py --limit gpu3 --check gpu.answers",
        "NVRM: Xid (PCI:0000:6e:00): 79, pid=0, GPU has fallen off the bus.",
        "login: found no answer on port 22 within 10 s",
        "asked at level standard",
        "exit 1: something failed or hung",
    ):
        assert wanted in text


def test_a_gpu_that_nvml_no_longer_names_has_a_cell() -> None:
    gone = {"kind": "gpu", "slot": "0000:20:00.0"}
    found = {
        "gpu.answers": [finding(gone)],
        "gpu.ecc": [finding(gone, verdict="not-run", because="gpu.answers")],
    }
    made = cells(verified(document("gpu1", found, gpus=7), "fail"))
    assert [cell.verdict for cell in made] == ["pass", "fail", *["pass"] * 6]  # by slot
    assert (made[1].slot, made[1].checks) == ("0000:20:00.0", ("gpu.answers", "gpu.ecc"))


def test_a_rank_is_the_gpu_that_it_names() -> None:
    rank = {"kind": "rank", "index": 0, "uuid": gpu(6, "gpu1")["uuid"]}
    made = cells(verified(document("gpu1", {"train.loss": [finding(rank)]}), "fail"))
    assert [cell.label for cell in made if cell.verdict == "fail"] == ["6"]


def test_a_gpu_that_nothing_looked_at_is_never_green() -> None:
    blind = finding({"kind": "driver"}, verdict="not-run", because="nvml.answers")
    found = {"nvml.answers": [finding(verdict="hung")], "gpu.ecc": [blind]}
    made = cells(verified(document("gpu1", found), "hung"))
    assert {cell.verdict for cell in made} == {"not-run"}
    alone = document("gpu1")
    alone["checks"] = [one for one in alone["checks"] if one["id"] == "host.disk"]
    assert {cell.verdict for cell in cells(verified(alone))} == {UNASKED}
    assert cells(hung()) == []


OBEYED = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\u200b\ufeff]")
EVIL = (
    "</title></style></pre><script>alert(1)</script>",
    "<img src=http://evil.example/x onerror=alert(1)>",
    '" onmouseover="alert(1)" x=\'',
    "' onfocus='alert(1)",
    "javascript:alert(1)",
    "<!-- ]]> &lt;script&gt; &amp;",
    "\x1b[2J\x00\x08\x85\u202egnp.exe\u2066\u200b\ufeff\u2028\n\r\x7f",
    "x" * 190,
)


@pytest.mark.parametrize("evil", EVIL, ids=range(len(EVIL)))
def test_text_of_a_host_is_shown_and_never_obeyed(tmp_path: Path, evil: str) -> None:
    bad = {key: evil for key in ("name", "uuid", "serial", "slot")} | {"kind": "gpu", "index": 0}
    row = finding(bad, what=evil, found=evil, expected=evil, evidence=[evil], because="")
    result = document(
        "gpu1",
        {"gpu.ecc": [row]},
        gpus=0,
        user=evil,
        python=evil,
        stack=evil,
        busy=[evil],
        not_asked=[{"id": "gpu.mig", "reason": evil}],
        measurements=[
            {"name": evil, "unit": evil, "value": 1.0, "component": bad, "conditions": {evil: evil}}
        ],
        gpus_=None,
    )
    del result["gpus_"]
    result["gpus"] = [{key: bad[key] for key in ("index", "name", "uuid", "serial", "slot")}]
    host = verified(result, "fail", message=evil)
    silent = verified(None, "not-run", host="gpu2", message=evil)
    plain = rendered(tmp_path, [remap_pending("gpu1"), unreachable("gpu2")])
    text = page(view_of(tmp_path, [host, silent]))
    found = Page(text)
    shown = "".join(found.words)
    names = {name for name, _ in found.elements}
    assert names <= {name for name, _ in plain.elements} | {"figure", "figcaption", "svg"} | {
        *("circle", "line", "title", "text")
    }
    attributes = {key for _, each in found.elements for key in each}
    assert not [key for key in attributes if key.startswith("on") or key in ("src", "srcdoc")]
    assert {str(one["href"])[:2] for one in found.all("href")} == {"#f"}
    assert not re.search(
        r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\u200b\ufeff]", text
    )
    if evil.isascii() and evil.isprintable():
        assert evil in shown


def test_nothing_is_fetched(tmp_path: Path) -> None:
    text = page(view_of(tmp_path, [healthy(), remap_pending()]))
    found = Page(text)
    [policy] = [one["content"] for one in found.all("http-equiv")]
    assert policy == "default-src 'none'; style-src 'unsafe-inline'"
    assert {name for name, _ in found.elements}.isdisjoint({"script", "link", "img", "iframe"})
    assert not re.search(r"url\(|@import|https?:", text)


def test_a_style_sheet_cannot_end_itself() -> None:
    from verify.report.markup import style

    with pytest.raises(AssertionError):
        style("</style>")
    assert tag("b", "<", tag("i", "&")) == "<b>&lt;<i>&amp;</i></b>"
    assert (
        tag("a", None, href='"x"', hidden=True, title=None) == '<a href="&quot;x&quot;" hidden></a>'
    )


def test_every_figure_is_a_dot_at_its_place(tmp_path: Path) -> None:
    hosts = [verified(measured("gpu1", [100, 120])), verified(measured("gpu2", [140]))]
    [plot] = plots(view_of(tmp_path, hosts))
    found = Page(drawn(plot))
    at = [float(str(one["cx"]).rstrip("%")) for one in found.all("cx")]
    assert at == [2.0, 50.0, 98.0]  # 2 % stay free at both ends
    assert "gpu1 rank 1: 120 samples/s" in found.words
    assert "100 to 140, spread 28.6 %" in found.words


def test_small_differences_stay_small(tmp_path: Path) -> None:
    [plot] = plots(view_of(tmp_path, [verified(measured("gpu1", [1000, 1001]))]))
    at = [float(str(one["cx"]).rstrip("%")) for one in Page(drawn(plot)).all("cx")]
    assert 0 < at[1] - at[0] < 1.5


def test_many_hosts_stand_side_by_side_and_the_outliers_are_named(tmp_path: Path) -> None:
    hosts = [verified(measured(f"gpu{i:03d}", [1000 + i, 1000])) for i in range(60)]
    [plot] = plots(view_of(tmp_path, hosts))
    found = Page(drawn(plot))
    assert len(found.all("cx")) == 120
    assert "highest gpu059 rank 0: 1,059 samples/s" in " ".join(found.words)


def test_a_crowd_of_figures_is_a_line_per_host(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plots_module, "MOST_DOTS", 100)
    hosts = [verified(measured(f"gpu{i:03d}", [100, 50, 150])) for i in range(60)]
    [plot] = plots(view_of(tmp_path, hosts))
    found = Page(drawn(plot))
    assert found.all("cx") == []
    spans = [one for one in found.all("y1") if one["class"] == "span"]
    assert len(spans) == 60
    assert {(one["y1"], one["y2"]) for one in spans} == {("178.0", "16.0")}


def test_of_a_huge_fleet_the_hosts_that_passed_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fleet_module, "MOST_DRAWN", 20)
    fleet = [healthy(f"gpu{number:03d}") for number in range(1, 40)]
    found = rendered(tmp_path, [*fleet, remap_pending("gpu040", 3)])
    assert {one["data-host"] for one in found.all("data-gpu")} == {"gpu040"}
    assert "and 39 hosts without fault: gpu[001-039]" in found.words


def test_figures_of_other_conditions_are_another_plot(tmp_path: Path) -> None:
    other = measured("gpu2", [1])
    other["measurements"][0]["conditions"] = {"backend": "gloo"}  # type: ignore[index]
    made = plots(view_of(tmp_path, [verified(measured("gpu1", [1])), verified(other)]))
    assert [plot.conditions for plot in made] == [(("backend", "nccl"),), (("backend", "gloo"),)]


def test_a_large_fleet_lists_its_findings_above_the_grid(tmp_path: Path) -> None:
    fleet = [healthy(f"gpu{number:03d}") for number in range(1, 200)]
    text = page(view_of(tmp_path, [*fleet, remap_pending("gpu200", 3)]))
    found = Page(text)
    assert len(found.all("data-gpu")) == 1600
    assert [one["class"] for one in found.all("class") if "grid" in str(one["class"])] == [
        "grid dense"
    ]
    assert text.index('class="todo"') < text.index('class="grid') < text.index('id="f1"')


def test_the_page_stands_in_the_run_directory(tmp_path: Path) -> None:
    view = view_of(tmp_path, [healthy()])
    assert view.page == ""
    written = write_page(view)
    assert written.page == f"{view.place}/report.html"
    assert read_view(look(Path(view.place))).page == written.page
    assert Path(written.page).read_text() == page(view)


def test_a_full_disk_costs_the_page_only(tmp_path: Path) -> None:
    view = view_of(tmp_path, [healthy()])
    (Path(view.place) / "report.html").mkdir()
    assert write_page(view) == view
