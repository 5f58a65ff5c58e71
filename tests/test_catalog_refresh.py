"""Captured vendor files against the catalogue: what is shown, what is entered, what is refused."""

import json
import os
import shutil
import tomllib
from importlib.resources import files
from pathlib import Path

import pytest

from deploy.catalog import captured, load
from deploy.catalog.__main__ import main
from deploy.catalog.captured import CaptureError, read
from deploy.catalog.load import FILES, assemble
from deploy.catalog.refresh import compare

DATA = Path(__file__).parent / "data" / "catalog"


@pytest.fixture
def home(tmp_path: Path) -> Path:
    for name in FILES:
        shutil.copy(str(files("deploy.catalog") / f"{name}.toml"), tmp_path)
    return tmp_path


def row(home: Path, file: str, array: str, **match: object) -> dict[str, object]:
    table = tomllib.loads((home / f"{file}.toml").read_text())
    return next(one for one in table[array] if match.items() <= one.items())


def catalogue(home: Path) -> None:
    assemble({name: tomllib.loads((home / f"{name}.toml").read_text()) for name in FILES})


@pytest.mark.parametrize(
    ("file", "said"),
    [
        (
            "redistrib_625.40.01.json",
            [
                "drivers: new branch 625 with 625.40.01, CUDA 13.5; its type is unknown until "
                "releases.json names it",
                "cuda: compat package of 13.5: 620.70.06 -> 625.40.01",
            ],
        ),
        (
            "redistrib_13.4.9.json",
            ["cuda: new version 13.4.9 bundles no driver, enter its floor by hand"],
        ),
        (
            "redistrib_12.6.3.json",
            ["cuda: 12.6.3: floor 560.35.05 -> 560.35.09"],
        ),
        (
            "releases.json",
            [
                "drivers: new feature branch 625 with 625.40.01; the file names no CUDA release, "
                "enter the branch by hand",
                "drivers: branch 620: type unknown -> production",
                "drivers: branch 620: newest 620.70.06 -> 620.82.01",
                "drivers: branch 580 is not in the list any more; the row has its end of life in "
                "2028-06",
            ],
        ),
        (
            "supported-gpus.json",
            [
                "gpus: 26bf NVIDIA L60: new, in the range of ada; the file does not tell its "
                "compute capability, enter it by hand",
                "gpus: 3002 NVIDIA R100: new, in no range",
            ],
        ),
        ("torch-2.10.0.METADATA", []),
    ],
)
def test_what_differs_is_shown_and_nothing_is_written(
    file: str, said: list[str], home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path: path.read_bytes() for path in home.iterdir()}
    assert main(["refresh", str(DATA / file)], home) == bool(said)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(said) + 1
    for line in said:
        assert any(one.startswith(line) for one in lines), (line, lines)
    assert {path: path.read_bytes() for path in home.iterdir()} == before


def test_what_the_catalogue_says_already_is_no_difference(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    same = [str(DATA / name) for name in ("torch-2.15.0.METADATA", "redistrib_13.0.3.json")]
    assert main(["refresh", *same, "--write"], home) == 0
    assert capsys.readouterr().out == "the catalogue says the same\n"


def test_a_changed_floor_is_entered_with_its_source_and_nothing_else_changes(home: Path) -> None:
    before = (home / "cuda.toml").read_text().splitlines()
    assert main(["refresh", str(DATA / "redistrib_12.6.3.json"), "--write"], home) == 0
    after = (home / "cuda.toml").read_text().splitlines()
    changed = [one for one in after if one not in before]
    assert len(changed) == 2
    assert '{ release = "12.6", source = "floors"' in changed[0]
    assert 'driver = "560.35.09"' in changed[0]
    assert changed[1].startswith("redistrib_12_6_3_json_of_compute_cuda_2026_12_03 = ")
    assert [one for one in before if one not in after] == [
        one for one in before if 'release = "12.6"' in one
    ]
    catalogue(home)


def test_a_new_branch_is_entered_and_what_people_must_enter_is_left(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wanted = [str(DATA / name) for name in ("redistrib_625.40.01.json", "releases.json")]
    assert main(["refresh", *wanted, "--write"], home) == 1
    assert "drivers.toml is rewritten; read it" in capsys.readouterr().out
    assert row(home, "drivers", "branch", number=625) == {
        "number": 625,
        "type": "unknown",
        "newest": "625.40.01",
        "cuda": "13.5",
        "source": "redistrib_625_40_01_json_of_compute_nvidia_driver_2026_12_02",
    }
    assert row(home, "drivers", "branch", number=620)["type"] == "production"
    assert row(home, "drivers", "branch", number=620)["newest"] == "620.82.01"
    assert "# no end of life seen" in (home / "drivers.toml").read_text()
    catalogue(home)


def test_changed_pins_of_a_wheel_are_entered_for_its_own_build(home: Path, tmp_path: Path) -> None:
    text = (DATA / "torch-2.15.0.METADATA").read_text()
    wheel = tmp_path / "METADATA"
    wheel.write_text(text.replace("nccl-cu13==2.30.7", "nccl-cu13==2.30.9"))
    assert main(["refresh", str(wheel), "--write"], home) == 0
    found = row(home, "torch", "release", version="2.15.0")["build"]
    assert isinstance(found, list)
    assert [one["nccl"] for one in found] == ["2.30.9", "2.30.9"]
    catalogue(home)


def test_a_result_that_contradicts_itself_is_not_written(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = json.loads((DATA / "redistrib_12.6.3.json").read_text())
    manifest["nvidia_driver"]["version"] = "550.1.1"
    bad = tmp_path / "redistrib_12.6.3.json"
    bad.write_text(json.dumps(manifest))
    before = {path: path.read_bytes() for path in home.glob("*.toml")}
    assert main(["refresh", str(bad), "--write"], home) == 2
    said = capsys.readouterr().err
    assert "nothing was written" in said
    assert "update 12.6.2 needs 560.35.03, newer 12.6.3 only 550.1.1" in said
    assert {path: path.read_bytes() for path in home.glob("*.toml")} == before


def test_the_hardware_rules_are_compared_with_supported_gpus(tmp_path: Path) -> None:
    chips = [
        {"devid": "0x1DB5", "name": "Tesla V100", "legacybranch": "590.xx"},
        {"devid": "0x2330", "name": "H100", "features": []},
        {"devid": "0x1DB6", "name": "Tesla V100", "features": ["kernelopen"]},
    ]
    file = tmp_path / "supported-gpus.json"
    file.write_text(json.dumps({"chips": chips}))
    [(_, said)] = read([file])
    words = [one.words for one in compare(load(), said, "2026-11")]
    assert "last branch 590, volta has 580" in words[0]
    assert "the open flavour does not support it, hopper has open, closed" in words[1]
    assert "the open flavour supports it, volta has closed" in words[2]


MANIFEST = (DATA / "redistrib_12.6.3.json").read_text()
DRIVER = (DATA / "redistrib_625.40.01.json").read_text()
WHEEL = (DATA / "torch-2.15.0.METADATA").read_text()
RELEASES = (DATA / "releases.json").read_text()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "neither JSON nor METADATA"),
        ("\x00\xff", "neither JSON nor METADATA"),
        (DRIVER[:200], "neither JSON nor METADATA"),
        ("[" * 100_000, "file: "),
        ("{}", "no table of any vendor's file"),
        ("[1]", "no table of any vendor's file"),
        ('{"a": 1, "a": 2}', "a key is there twice"),
        ('{"release_date": NaN}', "NaN is no JSON"),
        ('{"release_date": "2026-01-01", "libcudnn": {}}', "neither a driver nor a CUDA toolkit"),
        (MANIFEST.replace("12.6.3", "12.6.3; rm -rf /"), "version"),
        (MANIFEST.replace("560.35.09", "560.35.09 "), "driver"),
        (MANIFEST.replace("2026-12-03", "yesterday"), "date"),
        (DRIVER.replace('"625.40.01"', '"625.40.01\\u001b[2J"'), "version"),
        (DRIVER.replace('"625.40.01"', "625"), "version"),
        (RELEASES.replace("lts branch", "best branch"), "type"),
        (RELEASES.replace('"620.82.01"', '"621.82.01"'), "branch 620 lists 621.82.01"),
        (RELEASES.replace('"625"', '"x"'), "x"),
        ('{"chips": [{"devid": "2330", "name": "H100"}]}', "devid"),
        ('{"chips": [{"devid": "0x2330", "name": "H\\u0000"}]}', "name"),
        ('{"chips": {"devid": "0x2330"}}', "content"),
        (
            '{"chips": [{"devid": "0x2330", "name": "a"}, '
            '{"devid": "0x2330", "name": "b", "legacybranch": "580.xx"}]}',
            "device 2330: a and b contradict each other",
        ),
        (WHEEL.replace("Name: torch", "Name: other"), "METADATA of 'other', not of torch"),
        (WHEEL.replace("Version: 2.15.0", "Version: x"), "Invalid version"),
        (WHEEL.replace("Version: 2.15.0", "Version: 2.15.0+rocm7"), "no CUDA build"),
        (WHEEL.replace("==9.26.0.51", "=9.26"), "nvidia-cudnn-cu13=9.26"),
        (WHEEL.replace(">=3.11", "three"), "three"),
    ],
)
def test_bad_files_are_refused_with_every_fault(
    content: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad, missing = tmp_path / "file", tmp_path / "missing"
    bad.write_text(content, encoding="latin-1")
    assert main(["refresh", str(missing), str(bad), str(DATA / "releases.json")]) == 2
    told = capsys.readouterr()
    assert said in told.err
    assert "missing" in told.err
    assert told.out == ""
    assert "\x1b" not in told.err


def test_a_file_without_end_is_not_read_to_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(captured, "LIMIT", 100)
    huge = tmp_path / "huge"
    huge.write_text("x" * 101)
    with pytest.raises(CaptureError, match="more than 100 bytes"):
        read([huge])


def test_only_regular_files_are_read(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(CaptureError) as error:
        read([pipe, tmp_path])
    assert error.value.faults == [f"{pipe}: no regular file", f"{tmp_path}: no regular file"]


def test_the_matrix_is_asked_of_its_own_module(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr("deploy.matrix.main", lambda argv: asked.append(argv) or 7)
    assert main(["matrix", "--json"]) == 7
    assert asked == [["--json"]]


def test_an_unknown_release_and_build_are_for_people(tmp_path: Path) -> None:
    new, odd, old = tmp_path / "new", tmp_path / "odd", tmp_path / "old"
    new.write_text(WHEEL.replace("Version: 2.15.0", "Version: 2.16.0"))
    odd.write_text(WHEEL.replace("Version: 2.15.0", "Version: 2.15.0+cu999"))
    old.write_text(WHEEL.replace(">=3.11", ">=3.12"))
    words = [
        [one.words for one in compare(load(), said, "2026-11")] for _, said in read([new, odd, old])
    ]
    assert words[0][0].startswith("torch: new release 2.16.0")
    assert words[1][0].startswith("torch 2.15.0+cu999: no such build")
    assert words[2][0].startswith(
        "torch 2.15.0: the row has Python 3.11, the wheel asks for >=3.12"
    )
