"""check-torch: what a lock of uv tells of the wheels, against the rows. The locks are captured."""

import copy
import tomllib
from pathlib import Path
from typing import Any

import pytest

from deploy.catalog import load
from deploy.catalog.__main__ import main
from deploy.catalog.models import TorchRelease
from deploy.catalog.wheels import _newer, check_release, differences

DATA = Path(__file__).parent / "data" / "catalog"
LOCKS = {
    version: tomllib.loads((DATA / f"torch-{version}.uv.lock").read_text())
    for version in ("2.15.0", "2.8.0")
}


def row(version: str) -> TorchRelease:
    return next(one for one in load().torch if one.version == version)


@pytest.mark.parametrize("version", LOCKS)
def test_the_rows_say_what_the_wheels_say(version: str) -> None:
    assert differences(row(version), LOCKS[version]) == []


def dropped(lock: dict[str, Any], text: str) -> None:
    lock["package"][0]["wheels"] = [
        one for one in lock["package"][0]["wheels"] if text not in one["url"]
    ]


def moved(lock: dict[str, Any], name: str, version: str) -> None:
    next(one for one in lock["package"] if one["name"] == name)["version"] = version


def unasked(lock: dict[str, Any], name: str) -> None:
    torch = lock["package"][0]
    torch["dependencies"] = [one for one in torch["dependencies"] if one["name"] != name]


@pytest.mark.parametrize(
    ("version", "damage", "said"),
    [
        ("2.15.0", lambda lock: lock["package"].clear(), "the index has no such release"),
        (
            "2.15.0",
            lambda lock: moved(lock, "torch", "2.15.1"),
            "2.15.0: the index has no such release",
        ),
        (
            "2.15.0",
            lambda lock: dropped(lock, "cp315-cp315-manylinux_2_28_aarch64"),
            "for aarch64: the row says Python 3.11, 3.12, 3.13, 3.14, 3.15, the wheels are for "
            "3.11, 3.12, 3.13, 3.14",
        ),
        ("2.15.0", lambda lock: dropped(lock, "x86_64"), "the wheels are for none"),
        (
            "2.15.0",
            lambda lock: moved(lock, "nvidia-nccl-cu13", "2.30.9"),
            "the row says nvidia-nccl-cu13==2.30.7, the index gives 2.30.9",
        ),
        (
            "2.15.0",
            lambda lock: moved(lock, "triton", "4.0.0"),
            "the row says triton~=3.9.0, the index gives 4.0.0",
        ),
        (
            "2.15.0",
            lambda lock: unasked(lock, "nvidia-nvshmem-cu13"),
            "the row pins nvidia-nvshmem-cu13, the wheel does not ask for it",
        ),
        (
            "2.15.0",
            lambda lock: lock["package"][0]["dependencies"].append({"name": "nvidia-new"}),
            "the wheel asks for nvidia-new, the row does not say so",
        ),
        (
            "2.8.0",
            lambda lock: [one.pop("marker", None) for one in lock["package"][0]["dependencies"]],
            "2.8.0 for aarch64: cpu_wheel says no CUDA, the wheel asks for",
        ),
        (
            "2.15.0",
            lambda lock: [
                one.update(marker="platform_machine == 'x86_64'")
                for one in lock["package"][0]["dependencies"]
            ],
            "for aarch64: the row pins nvidia-cudnn-cu13, the wheel does not ask for it",
        ),
    ],
)
def test_what_differs_is_told(version: str, damage: Any, said: str) -> None:
    lock = copy.deepcopy(LOCKS[version])
    damage(lock)
    assert any(said in one for one in differences(row(version), lock)), differences(
        row(version), lock
    )


@pytest.mark.parametrize(("version", "said"), [("2.15.0", 0), ("2.15.1", 1), ("2.9.1", 0)])
def test_a_release_without_a_row_is_told(version: str, said: int) -> None:
    lock = copy.deepcopy(LOCKS["2.15.0"])
    moved(lock, "torch", version)
    assert len(_newer(load(), lock)) == said


def test_an_index_that_does_not_answer_is_no_agreement(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["check-torch", "--index", f"file://{tmp_path}/simple"]) == 2
    assert "the package index could not be asked" in capsys.readouterr().err


@pytest.mark.long
@pytest.mark.parametrize("version", [one.version for one in load().torch])
def test_the_row_against_the_package_index(version: str) -> None:
    """Asks the package index that uv is configured with; needs the network."""
    assert check_release(row(version), "") == []
