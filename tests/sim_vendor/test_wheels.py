"""The stub wheels and their indexes, read by uv."""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import uv
from packaging.requirements import Requirement

from tests.sim.vendor import VendorRepo, wheelhouse, wheels

FROM_ELSEWHERE = {"filelock", "typing-extensions", "setuptools", "sympy", "networkx", "jinja2",
                  "fsspec", "mpmath", "markupsafe"}  # fmt: skip


def run_uv(*words: object, text: str = "", home: Path) -> subprocess.CompletedProcess[str]:
    """Run uv with no configuration of this machine and a cache of its own."""
    command = [uv.find_uv_bin(), *map(str, words), "--no-config", "--cache-dir", str(home / "uv")]
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(home), "NO_PROXY": "*"}
    return subprocess.run(
        command, input=text, env=environment, capture_output=True, text=True, check=False
    )


def resolve(index: str, requirement: str, home: Path) -> dict[str, str]:
    """What a torch of the index pins; what the index does not have is left out of its metadata."""
    excluded = "".join(f"{name}\n" for name in FROM_ELSEWHERE)
    (home / "excluded.txt").write_text(excluded)
    done = run_uv(
        *("pip", "compile", "-", "--index-url", index, "--no-header", "--no-annotate"),
        *("--excludes", home / "excluded.txt", "--python-version", "3.11"),
        *("--python-platform", "x86_64-manylinux_2_28"),
        text=requirement,
        home=home,
    )
    assert done.returncode == 0, done.stderr
    return dict(line.split("==") for line in done.stdout.splitlines() if "==" in line)


@pytest.mark.parametrize(
    ("variant", "torch", "cudnn", "nccl"),
    [
        ("cu126", "2.13.0", "nvidia-cudnn-cu12==9.10.2.21", "nvidia-nccl-cu12==2.29.3"),
        ("cu130", "2.13.0", "nvidia-cudnn-cu13==9.20.0.48", "nvidia-nccl-cu13==2.29.7"),
        ("cu130", "2.14.1", "nvidia-cudnn-cu13==9.24.0.43", "nvidia-nccl-cu13==2.30.7"),
    ],
)
def test_each_build_resolves_with_its_pins(url, tmp_path, variant, torch, cudnn, nccl) -> None:
    found = resolve(f"{url}/wheels/whl/{variant}/", f"torch=={torch}", tmp_path)
    assert found["torch"] == f"{torch}+{variant}"
    for pin in (cudnn, nccl):
        name, version = pin.split("==")
        assert found[name] == version
    if variant == "cu130":
        assert found["nvidia-nvjitlink"] == "13.5.37", "it floats: the newest wins without a lock"
        assert found["nvidia-cublas"] == "13.1.1.3"


def test_the_common_index_has_every_build(repository: VendorRepo) -> None:
    page = (repository.root / repository.wheels / "torch/index.html").read_text()
    assert {"2.13.0%2Bcu126", "2.13.0%2Bcu130", "2.14.1%2Bcu130"} <= set(
        re.findall(r"/torch-([^-]+)-", page)
    )


def test_a_real_cpu_wheel_of_the_machine_is_offered(tmp_path: Path, monkeypatch) -> None:
    real = tmp_path / "torch-2.13.0+cpu-cp311-cp311-manylinux_2_28_x86_64.whl"
    with zipfile.ZipFile(real, "w") as archive:
        metadata = "Name: torch\nVersion: 2.13.0+cpu\nRequires-Python: >=3.10\n"
        archive.writestr("torch-2.13.0+cpu.dist-info/METADATA", metadata)
    monkeypatch.setattr(wheelhouse, "wheels", list)
    wheelhouse.build(tmp_path / "wheels", {}, [real])
    page = (tmp_path / "wheels/whl/cpu/torch/index.html").read_text()
    digest = hashlib.sha256(real.read_bytes()).hexdigest()
    assert 'href="../../../files/torch-2.13.0%2Bcpu-cp311-cp311-' in page
    assert f"#sha256={digest}" in page
    assert 'data-requires-python="&gt;=3.10"' in page
    assert (tmp_path / "wheels/files" / real.name).resolve() == real
    assert (tmp_path / "wheels/simple/torch/index.html").exists()


def test_every_pin_of_a_stub_can_be_met() -> None:
    have = {(w.name, w.version) for w in wheels.wheels()}
    for wheel in wheels.wheels():
        for text in (*wheel.requires, *(r for rs in wheel.extras.values() for r in rs)):
            need = Requirement(text)
            if need.name in FROM_ELSEWHERE:
                continue
            assert any(
                name == need.name and need.specifier.contains(version) for name, version in have
            ), f"{wheel.stem}: {text}"


MAPPED = ("nvidia-cudnn-cu13", "nvidia-nccl-cu13==2.29.7", "nvidia-cublas", "nvidia-cuda-runtime")


@pytest.fixture(scope="module")
def stub(url, tmp_path_factory) -> Path:
    """A folder with a stub torch for CUDA 13 and the libraries that it maps."""
    home = tmp_path_factory.mktemp("stub")
    target = home / "site"
    done = run_uv(
        *("pip", "install", "--target", target, "--python", sys.executable, "--no-deps"),
        *("--index-url", f"{url}/wheels/simple/", "torch==2.13.0+cu130", *MAPPED),
        home=home,
    )
    assert done.returncode == 0, done.stderr
    return target


def python(site: Path, script: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a script that finds what is in this folder first."""
    return subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(site)!r})\n{script}"],
        env={"PATH": "/usr/bin:/bin", **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_stub_torch_imports_and_computes_nothing(stub: Path) -> None:
    script = (
        "import torch\n"
        "print(torch.__version__, torch.version.cuda)\n"
        "for ask in ('zeros', 'nn', 'cuda.synchronize', 'cuda.Stream', 'backends.mps'):\n"
        "    try:\n        eval('torch.' + ask)\n"
        "    except torch.SimulatedTorchError as error:\n        print(error)\n"
    )
    shown = python(stub, script).stdout
    assert shown.startswith("2.13.0+cu130 13.0\ntorch.zeros: this torch is simulated")
    assert shown.count("computes nothing") == 5


def test_a_stub_torch_sees_no_gpu_where_nvml_is_not(stub: Path) -> None:
    script = "from torch import cuda; print(cuda.is_available(), cuda.device_count(), "
    assert python(stub, script + "cuda.get_arch_list())").stdout == "False 0 []\n"


MAPS = (
    "import torch\n"
    "print(torch.backends.cudnn.version(), torch.cuda.nccl.version())\n"
    "print({line.split()[-1] for line in open('/proc/self/maps') if 'libcudnn' in line})\n"
)


def test_a_stub_torch_maps_the_libraries_of_its_wheels(stub: Path) -> None:
    shown = python(stub, MAPS)
    found = f"{stub}/nvidia/cudnn/lib/libcudnn.so.9"
    assert shown.stdout == f"92400 (2, 29, 7)\n{{{found!r}}}\n", shown.stderr


def test_a_library_in_front_is_mapped_instead(stub: Path, tmp_path: Path) -> None:
    other = tmp_path / "libcudnn.so.9"
    other.write_bytes((stub / "nvidia/cudnn/lib/libcudnn.so.9").read_bytes())
    shown = python(stub, MAPS, LD_LIBRARY_PATH=str(tmp_path))
    assert shown.stdout == f"92400 (2, 29, 7)\n{{{str(other)!r}}}\n", shown.stderr


def test_a_missing_library_is_an_import_error(stub: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    shutil.copytree(stub, site)
    (site / "nvidia/nccl/lib/libnccl.so.2").unlink()
    refused = python(site, "import torch")
    assert refused.returncode == 1
    assert "libnccl.so.2: cannot open shared object file" in refused.stderr


def test_wheels_can_be_found_without_an_index(repository: VendorRepo, tmp_path: Path) -> None:
    files = repository.root / "wheels/files"
    done = run_uv(
        *("pip", "install", "--dry-run", "--target", tmp_path / "site", "--no-deps", "--no-index"),
        *("--python", sys.executable, "--find-links", files, "torch==2.14.1+cu130"),
        home=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert "torch==2.14.1+cu130" in done.stderr


def test_a_wheel_whose_bytes_changed_is_rejected(repository, serve, tmp_path: Path) -> None:
    """The index carries hashes: a falsified file does not pass a hash-checked installation."""
    name = "triton-3.8.0-py3-none-manylinux_2_28_x86_64.whl"
    page = (repository.root / "wheels/simple/triton/index.html").read_text()
    (digest,) = re.findall(rf"files/{re.escape(name)}#sha256=([0-9a-f]+)", page)
    with zipfile.ZipFile(repository.root / "wheels/files" / name) as original:
        assert original.testzip() is None
    mirror = tmp_path / "mirror"
    (mirror / "triton").mkdir(parents=True)
    (mirror / "files").mkdir()
    data = (repository.root / "wheels/files" / name).read_bytes()
    (mirror / "files" / name).write_bytes(data + b"\0")
    (mirror / "triton/index.html").write_text(f'<a href="../files/{name}">{name}</a>')
    requirements = tmp_path / "requirements.txt"
    requirements.write_text(f"triton==3.8.0 --hash=sha256:{digest}\n")
    done = run_uv(
        *("pip", "install", "--target", tmp_path / "site", "--no-deps", "--require-hashes"),
        *("--python", sys.executable, "--index-url", serve(mirror), "-r", requirements),
        home=tmp_path,
    )
    assert done.returncode != 0
    assert "Hash mismatch" in done.stderr
