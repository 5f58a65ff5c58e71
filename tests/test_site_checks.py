"""A site's own checks: known on the controller, carried in the bundle, asked on the host."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from deploy.fleet.errors import WrongInput
from tests import reported
from verify.bundle import bundle, with_site
from verify.report.catalogue import catalogue
from verify.results import HostResult
from verify.site_checks import folder_of, read_site

EXAMPLE = Path(__file__).parent.parent / "docs/examples/checks"
GOOD = '''
from verify.checks import HOST, check

@check("site.{name}")
def test_it(look):
    """All is well."""
    look.at(HOST, "it", found=1, expected=1)
'''


def test_the_folder_beside_the_inventory_is_taken_when_none_is_named(tmp_path: Path) -> None:
    assert folder_of(tmp_path / "lab.py", None) is None
    (tmp_path / "checks").mkdir()
    assert folder_of(tmp_path / "lab.py", None) == tmp_path / "checks"
    assert folder_of(tmp_path / "lab.py", "/other") == Path("/other")


def test_without_a_folder_the_bundle_is_as_ever() -> None:
    site = read_site(None, catalogue())
    assert (site.checks, site.files) == ({}, {})
    assert with_site(site.files).id == bundle().id


def test_the_files_travel_and_change_the_bundles_name(tmp_path: Path) -> None:
    (tmp_path / "test_one.py").write_text(GOOD.replace("{name}", "one"))
    (tmp_path / "limits.json").write_text("{}")
    (tmp_path / "notes.txt").write_text("not for hosts")
    site = read_site(tmp_path, catalogue())
    assert list(site.checks) == ["site.one"]
    packed = with_site(site.files)
    mine = sorted(path for path in packed.files if path.startswith("verify/site/"))
    names = ("__init__.py", "limits.json", "test_one.py")
    assert mine == [f"verify/site/{name}" for name in names]
    assert packed.id != bundle().id
    assert not list(tmp_path.glob("__pycache__"))


def test_everything_that_is_wrong_is_said_at_once(tmp_path: Path) -> None:
    (tmp_path / "test_broken.py").write_text("import nothing_of_this_name\n")
    (tmp_path / "test_empty.py").write_text("def test_x(): pass\n")
    (tmp_path / "test_ours.py").write_text(GOOD.replace("site.{name}", "gpu.mine"))
    (tmp_path / "test_a.py").write_text(GOOD.replace("{name}", "twice"))
    (tmp_path / "test_b.py").write_text(GOOD.replace("{name}", "twice"))
    with pytest.raises(WrongInput) as caught:
        read_site(tmp_path, catalogue())
    said = "\n".join(map(str, caught.value.faults))
    for text in (
        "test_broken.py: cannot be imported: ModuleNotFoundError",
        "test_empty.py: holds no check",
        "gpu.mine: is of a family of ours",
        "site.twice: is the id of another check there",
    ):
        assert text in said
    assert len(caught.value.faults) == 4


def test_a_folder_without_checks_and_one_too_large_are_refused(tmp_path: Path) -> None:
    with pytest.raises(WrongInput, match="holds no check"):
        read_site(tmp_path, catalogue())
    (tmp_path / "test_one.py").write_text(GOOD.replace("{name}", "one"))
    (tmp_path / "big.json").write_text("[" + "0," * 600_000 + "0]")
    with pytest.raises(WrongInput, match="at most 1000000 travel"):
        read_site(tmp_path, catalogue())


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle with the documented example, as it lies on a host."""
    folder = tmp_path_factory.mktemp("bundle")
    packed = with_site(read_site(EXAMPLE, catalogue()).files)
    with tarfile.open(fileobj=io.BytesIO(packed.archive)) as archive:
        archive.extractall(folder, filter="data")
    return folder


def asked(folder: Path, prefix: Path) -> HostResult:
    """What the host says to site.scratch and one check of ours."""
    request = reported.request(prefix=str(prefix), checks=["site.scratch", "host.self-name"])
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-B", str(folder / "verify/onhost.py")],
        input=json.dumps(request), capture_output=True, text=True, timeout=60, cwd="/",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return HostResult.model_validate_json(done.stdout.removeprefix("GPUFLEET "))


@pytest.mark.long
def test_the_example_sees_both_colours(unpacked: Path, tmp_path: Path) -> None:
    place = unpacked / "verify/site/test_scratch.py"
    text = place.read_text()
    try:
        place.write_text(text.replace('"/scratch"', repr(str(tmp_path / "scratch"))))
        red = {one.id: one for one in asked(unpacked, tmp_path).checks}["site.scratch"]
        assert red.verdict == "fail"
        assert red.findings[0].action == "drain"
        (tmp_path / "scratch").mkdir()
        found = {one.id: one for one in asked(unpacked, tmp_path).checks}
        assert found["site.scratch"].verdict == "pass"
        assert found["host.self-name"].looked_at
    finally:
        place.write_text(text)
