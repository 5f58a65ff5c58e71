"""The reports of an environment: torch's own words, its libraries, and pip's question."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from verify.payload import pip_check, torch_report

GPUS = [{"name": "H100", "uuid": f"GPU-{name}", "cc": [9, 0]} for name in ("aa", "ab", "b")]

TORCH = """\
__version__ = "2.13.0+cu130"
class version:
    cuda = {cuda!r}
class _Asked:
    def __init__(self, answer):
        self.answer = answer
    def __call__(self):
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer
class backends:
    class cudnn:
        version = _Asked({cudnn})
class cuda:
    is_available = _Asked({available})
    device_count = _Asked({count})
    get_arch_list = _Asked({arch})
    class nccl:
        version = _Asked((2, 29, 7))
"""
NVML = """\
class NVMLError(Exception): pass
GPUS = [("H100", "GPU-aa"), ("H100", "GPU-ab")]
def nvmlInit(): pass
def nvmlDeviceGetCount(): return len(GPUS)
def nvmlDeviceGetHandleByIndex(index): return index
def nvmlDeviceGetName(index): return GPUS[index][0]
def nvmlDeviceGetUUID(index): return GPUS[index][1]
def nvmlDeviceGetCudaComputeCapability(index): return (9, 0)
"""
AS_BUILT: dict[str, Any] = {
    "cuda": "13.0",
    "cudnn": 92000,
    "available": True,
    "count": 2,
    "arch": ["sm_80", "sm_90"],
}


def ran(folder: Path, *, torch: str | None = None, **environment: str) -> dict[str, Any]:
    """What torch_report prints with this torch in front of the real one."""
    if torch is not None:
        (folder / "torch.py").write_text(torch)
    (folder / "pynvml.py").write_text(NVML)
    kept = {"PATH": os.environ["PATH"], "PYTHONPATH": str(folder), "USER": "tester", **environment}
    command = [sys.executable, "-B", torch_report.__file__]
    done = subprocess.run(command, capture_output=True, text=True, env=kept)
    assert done.returncode == 0, done.stderr
    (line,) = done.stdout.splitlines()
    found: dict[str, Any] = json.loads(line.removeprefix("GPUFLEET "))
    return found


def test_a_cuda_build(tmp_path: Path) -> None:
    found = ran(tmp_path, torch=TORCH.format(**AS_BUILT))
    assert (found["state"], found["error"]) == ("ok", "")
    assert (found["version"], found["cuda"]) == ("2.13.0+cu130", "13.0")
    assert (found["cudnn"], found["nccl"]) == ("9.20.0", "2.29.7")
    assert (found["arch_list"], found["available"]) == (["sm_80", "sm_90"], True)
    assert [(one["index"], one["uuid"]) for one in found["devices"]] == [
        (0, "GPU-aa"),
        (1, "GPU-ab"),
    ]
    assert (found["count"], found["visible"]) == (2, None)


def test_fewer_gpus_are_shown(tmp_path: Path) -> None:
    torch = TORCH.format(**{**AS_BUILT, "count": 1})
    found = ran(tmp_path, torch=torch, CUDA_VISIBLE_DEVICES="1")
    assert found["visible"] == "1"
    assert [(one["index"], one["uuid"]) for one in found["devices"]] == [(0, "GPU-ab")]


def test_no_gpu_is_no_arch_list(tmp_path: Path) -> None:
    found = ran(
        tmp_path, torch=TORCH.format(**{**AS_BUILT, "available": False, "count": 0, "arch": []})
    )
    assert (found["state"], found["arch_list"], found["devices"]) == ("ok", None, [])


def test_what_fails_is_told_and_the_rest_is_read(tmp_path: Path) -> None:
    broken = {**AS_BUILT, "cudnn": "RuntimeError('cuDNN version incompatibility')"}
    found = ran(tmp_path, torch=TORCH.format(**broken))
    assert found["state"] == "failed"
    assert found["error"] == "cudnn: RuntimeError: cuDNN version incompatibility"
    assert (found["cudnn"], found["nccl"], found["count"]) == (None, "2.29.7", 2)


def test_torch_that_counts_more_gpus_than_there_are(tmp_path: Path) -> None:
    found = ran(tmp_path, torch=TORCH.format(**{**AS_BUILT, "count": 3}))
    assert found["state"] == "failed"
    assert found["error"] == "devices: RuntimeError: torch counts 3 GPUs, NVML has 2 of them"


@pytest.mark.parametrize("text", ["raise OSError('libnccl.so.2: not there')", "x ="])
def test_torch_that_cannot_be_imported(tmp_path: Path, text: str) -> None:
    found = ran(tmp_path, torch=text)
    assert (found["state"], found["version"]) == ("failed", None)
    assert found["error"].startswith("import torch: ")
    assert found["wheels"]["pytest"]


@pytest.mark.long
def test_the_real_cpu_build(tmp_path: Path) -> None:
    found = ran(tmp_path)
    assert (found["state"], found["cuda"], found["arch_list"]) == ("ok", None, None)
    assert found["version"] == found["wheels"]["torch"]
    assert found["user"] in ("root", "tester")


@pytest.mark.parametrize(
    ("visible", "names"),
    [
        ("0,2", ["GPU-aa", "GPU-b"]),
        ("1", ["GPU-ab"]),
        ("", []),
        ("-1,0", []),
        ("0,9,1", ["GPU-aa"]),
        ("GPU-b,0", ["GPU-b", "GPU-aa"]),
        ("NoDevFiles", []),
    ],
)
def test_visible_devices(visible: str, names: list[str]) -> None:
    assert [one["uuid"] for one in torch_report.named(visible, GPUS)] == names


@pytest.mark.parametrize(
    ("number", "text"), [(92000, "9.20.0"), (91002, "9.10.2"), (8907, "8.9.7"), (None, None)]
)
def test_cudnn_versions(number: int | None, text: str | None) -> None:
    assert torch_report.cudnn_version(number) == text


def test_libraries_in_front_of_the_wheels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wheel = tmp_path / "site-packages/nvidia/cudnn/lib"
    system = tmp_path / "system"
    for folder in (wheel, system):
        folder.mkdir(parents=True)
        for name in ("libcudnn.so.9", "libcudnn_graph.so.9", "libother.so.1"):
            (folder / name).touch()
    have = {"libcudnn.so.9": f"{wheel}/libcudnn.so.9"}
    for path, found in (
        ("", []),
        (str(wheel), []),
        (f"/nowhere::{system}", ["libcudnn.so.9", "libcudnn_graph.so.9"]),
        (f"{wheel}:{system}", []),
    ):
        monkeypatch.setenv("LD_LIBRARY_PATH", path)
        assert sorted(torch_report.in_front(have)) == found, path
    assert torch_report.in_front({}) == {}


def test_names_of_libraries() -> None:
    names = ["libcudnn.so.9.20.0", "libcudnn.so.9", "libcublasLt.so.13.1.1.3"]
    assert [torch_report.soname(name) for name in names] == [
        "libcudnn.so.9",
        "libcudnn.so.9",
        "libcublasLt.so.13",
    ]


# ---- pip's question ------------------------------------------------------------------------------


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty place for distributions, which is all that the environment has."""
    places = {"purelib": str(tmp_path), "platlib": str(tmp_path)}
    monkeypatch.setattr(pip_check.sysconfig, "get_paths", lambda: places)
    monkeypatch.setattr(sys, "path", list(sys.path))
    return tmp_path


def distribution(site: Path, name: str, version: str, *requires: str) -> None:
    """Metadata of an installed distribution."""
    info = site / f"{name}-{version}.dist-info"
    info.mkdir()
    lines = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}"]
    lines += [f"Requires-Dist: {need}" for need in requires]
    (info / "METADATA").write_text("\n".join(lines) + "\n")


def test_all_requirements_are_met(site: Path) -> None:
    distribution(site, "torch", "2.13.0+cpu", "Sym.Py>=1.13", "gone; sys_platform == 'win32'")
    distribution(site, "sym_py", "1.14.0rc1", "extra-only; extra == 'dev'")
    found = pip_check.report()
    assert found == {"state": "ok", "problems": [], "error": ""}


def test_what_is_missing_or_of_another_version(site: Path) -> None:
    distribution(site, "torch", "2.13.0+cu130", "sympy>=1.13", "triton==3.7.1", "odd requirement!")
    distribution(site, "triton", "3.8.0")
    found = pip_check.report()
    assert found["state"] == "ok"
    assert found["problems"] == [
        "torch 2.13.0+cu130 requires sympy, which is not installed.",
        "torch 2.13.0+cu130 has requirement triton==3.7.1, but you have triton 3.8.0.",
        "torch 2.13.0+cu130 has a requirement nobody can read: odd requirement!",
    ]


def test_an_empty_environment_is_no_answer(site: Path) -> None:
    found = pip_check.report()
    assert found["state"] == "failed"
    assert "nothing installed" in found["error"]


def test_damaged_metadata_is_a_problem(site: Path) -> None:
    distribution(site, "fine", "1.0")
    (site / "empty-1.0.dist-info").mkdir()
    found = pip_check.report()
    assert len(found["problems"]) == 1
    assert "no usable metadata" in found["problems"][0]
