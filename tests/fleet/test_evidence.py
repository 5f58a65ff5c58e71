"""gpufleet evidence on a real host with stand-ins of the vendor's and the machine's programs."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import pytest

from tests.fleet.live import LiveFleet, Result
from tests.fleet.test_apply import DRIVER_ONLY, Lab, status

pytestmark = pytest.mark.fleet

NODE = "l40s-01"


@pytest.fixture(scope="module")
def lab(fleet: LiveFleet, tmp_path_factory: pytest.TempPathFactory) -> Lab:
    """A bare node: nothing of ours is needed there but Python."""
    return Lab(fleet, tmp_path_factory.mktemp("lab"), {NODE: DRIVER_ONLY})


def gathered(lab: Lab, *words: str) -> tuple[Result, dict[str, str]]:
    """The command, and the files of its archive."""
    place = lab.folder / "evidence.tar.gz"
    asked = ("evidence", NODE, "--inventory", "lab.py", "--output", str(place), *words)
    done = lab.gpufleet(*asked)
    assert place.exists(), status(done)
    return done, unpacked(place)


def unpacked(place: Path) -> dict[str, str]:
    with tarfile.open(place) as tar:
        return {
            one.name.partition("/")[2]: tar.extractfile(one).read().decode()  # type: ignore[union-attr]
            for one in tar.getmembers()
        }


def test_an_archive_has_what_an_rma_needs_and_no_secret(lab: Lab) -> None:
    lab.gpufleet("verify", "lab.py")
    with lab.fleet.broken(NODE, "rma-tools:ok"):
        done, found = gathered(lab)
    assert done.status == 0, status(done)
    assert "Start of NVIDIA bug report" in found["nvidia-bug-report.log"]
    assert "Uncorrectable ECC" in found["sel.txt"]
    assert "Debian" in found["versions.txt"]
    assert NODE in found["findings.txt"]
    assert not any("c4nary" in text for text in found.values())
    manifest = json.loads(found["manifest.json"])
    told = {one["source"].split()[0]: one for one in manifest["files"]}
    assert "not installed" in told["dcgmi"]["missing"]
    assert manifest["simulated"]
    left = lab.fleet.root(NODE, "ls -d /tmp/gpufleet-evidence-* 2>/dev/null || :").ok()
    assert left == ""


@pytest.mark.soak
def test_a_report_without_end_is_kept_as_far_as_it_came(lab: Lab) -> None:
    with lab.fleet.broken(NODE, "rma-tools:hang"):
        done, found = gathered(lab)
    assert done.status == 4, status(done)
    assert found["nvidia-bug-report.log"].count("Start of NVIDIA bug report") == 2  # in safe mode
    manifest = json.loads(found["manifest.json"])
    (report,) = [one for one in manifest["files"] if one["file"] == "nvidia-bug-report.log"]
    assert report["hung"]
    assert "a second try with --safe-mode ended with 0" in report["missing"]
    assert "Uncorrectable ECC" in found["sel.txt"]
