"""Environments that the real uv resolves, from wheels made here and served on loopback."""

import dataclasses
import hashlib
import json
import os
import shutil
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from deploy import environment
from deploy.environment import Resolver, Unresolved, environment_id, resolve
from deploy.managed_python import download_list, folder_of
from deploy.solve import EnvironmentWish
from tests.sim.vendor.wheelhouse import write
from tests.sim.vendor.wheels import Wheel
from tests.sim_vendor.conftest import serve

__all__ = ["serve"]  # a fixture

MANYLINUX = "cp311-cp311-manylinux_2_28_x86_64"
NEEDS = ("filelock",)


def wheel(name: str, number: str, tag: str = "py3-none-any", needs: tuple[str, ...] = ()) -> Wheel:
    return Wheel(name, number, (), requires=needs, tag=tag)


class Index:
    """A PEP 503 index of wheels made here."""

    def __init__(self, folder: Path, address: str) -> None:
        self.folder = folder
        self.url = address

    def add(self, *wheels: Wheel) -> list[str]:
        """Write and list wheels; returns their digests."""
        found = []
        for one in wheels:
            home = self.folder / one.name
            home.mkdir(parents=True, exist_ok=True)
            found.append("sha256:" + hashlib.sha256(write(one, {}, home).read_bytes()).hexdigest())
            (home / f"{one.filename}.metadata").unlink()
            self._list(home)
        return found

    def add_source(self, name: str, number: str) -> None:
        home = self.folder / name
        home.mkdir(parents=True)
        (home / f"{name}-{number}.tar.gz").write_bytes(b"never unpacked")
        self._list(home)

    def _list(self, home: Path) -> None:
        links = "".join(
            f'<a href="{path.name.replace("+", "%2B")}">{path.name}</a>\n'
            for path in sorted(home.iterdir())
            if path.suffix != ".html"
        )
        (home / "index.html").write_text(f"<!DOCTYPE html><html><body>{links}</body></html>")


@pytest.fixture
def index(tmp_path: Path, serve: Any) -> Index:
    """An index that has everything but torch."""
    folder = tmp_path / "index"
    folder.mkdir()
    made = Index(folder, serve(folder))
    made.add(wheel("numpy", "2.4.6", MANYLINUX), wheel("numpy", "2.3.0", MANYLINUX))
    made.add(wheel("nvidia-ml-py", "13.615.71"), wheel("filelock", "4.2.11"))
    made.add(wheel("uv", version("uv"), "py3-none-manylinux_2_17_x86_64"))
    return made


@pytest.fixture
def torch_index(tmp_path: Path, serve: Any) -> Index:
    folder = tmp_path / "torch"
    folder.mkdir()
    return Index(folder, serve(folder))


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("UV_HTTP_RETRIES", "0")


def torch(build: str, number: str = "2.13.0") -> Wheel:
    return wheel("torch", number + (f"+{build}" if build else ""), MANYLINUX, NEEDS)


def wish(index: Index, **changes: Any) -> EnvironmentWish:
    values: dict[str, Any] = {
        "platform": "x86_64-manylinux_2_28",
        "python": "3.11",
        "torch": "2.13.0",
        "build": "cu126",
        "hardware_build": "cu126",
        "pypi": False,
        "vendor_index": "http://127.0.0.1:9/whl/cu126",
        "requirements": ("numpy", "nvidia-ml-py"),
        "index": index.url,
        "torch_index": "",
        "find_links": (),
    }
    return EnvironmentWish(**{**values, **changes})


def names(requirements: tuple[str, ...]) -> list[str]:
    return [line.split(" ", 1)[0] for line in requirements]


def test_an_environment_is_locked_by_hash(index: Index, torch_index: Index) -> None:
    (digest,) = torch_index.add(torch("cu126"))
    found = resolve(wish(index, torch_index=torch_index.url))
    assert names(found.requirements) == [
        "filelock==4.2.11",
        "numpy==2.4.6",
        "nvidia-ml-py==13.615.71",
        "torch==2.13.0+cu126",
    ]
    assert found.requirements[-1] == f"torch==2.13.0+cu126 --hash={digest}"
    assert all(line.count("--hash=sha256:") == 1 for line in found.requirements)
    assert found.uv == version("uv")
    assert len(found.uv_hashes) == 1
    assert (found.index, found.torch_index) == (index.url, torch_index.url)
    assert found.id == environment_id(found)


def test_sizes_that_an_index_does_not_name_are_asked_for(index: Index, torch_index: Index) -> None:
    torch_index.add(torch("cu126"))
    found = resolve(wish(index, torch_index=torch_index.url))
    wheels = [
        *(torch_index.folder / "torch").glob("*.whl"),
        *(index.folder / "numpy").glob("*2.4.6*.whl"),
        *(index.folder / "nvidia-ml-py").glob("*.whl"),
        *(index.folder / "filelock").glob("*.whl"),
    ]
    assert len(wheels) == 4
    assert found.size == sum(wheel.stat().st_size for wheel in wheels)


def test_only_hashes_of_wheels_for_the_platform_are_kept(index: Index, torch_index: Index) -> None:
    torch_index.add(torch("cu126"))
    (wanted,) = index.add(wheel("einops", "1.0", MANYLINUX))
    index.add(
        wheel("einops", "1.0", "cp312-cp312-manylinux_2_28_x86_64"),
        wheel("einops", "1.0", "cp311-cp311-musllinux_1_2_x86_64"),
        wheel("einops", "1.0", "cp311-cp311-manylinux_2_28_aarch64"),
        wheel("einops", "1.0", "cp311-cp311-macosx_14_0_arm64"),
    )
    found = resolve(wish(index, torch_index=torch_index.url, requirements=("einops",)))
    assert f"einops==1.0 --hash={wanted}" in found.requirements


@pytest.mark.long
def test_equal_wishes_have_equal_ids_and_others_have_others(
    index: Index, torch_index: Index
) -> None:
    torch_index.add(torch("cu126"))
    asked = wish(index, torch_index=torch_index.url)
    first = resolve(asked)
    assert resolve(asked) == first
    assert resolve(dataclasses.replace(asked, hardware_build="cu130")).id == first.id
    assert resolve(dataclasses.replace(asked, requirements=("numpy<2.4",))).id != first.id


def test_folders_come_before_the_vendors_index(index: Index, tmp_path: Path) -> None:
    folder = tmp_path / "wheels"
    folder.mkdir()
    write(torch("cpu"), {}, folder)
    found = resolve(wish(index, build="cpu", find_links=(str(folder),)))
    assert "torch==2.13.0+cpu" in names(found.requirements)
    assert found.torch_index == ""
    assert found.find_links == (str(folder),)


def test_the_vendors_index_is_asked_when_no_folder_has_the_build(
    index: Index, torch_index: Index, tmp_path: Path
) -> None:
    folder = tmp_path / "wheels"
    folder.mkdir()
    write(torch("cpu"), {}, folder)
    torch_index.add(torch("cu126"))
    found = resolve(wish(index, vendor_index=torch_index.url, find_links=(str(folder),)))
    assert "torch==2.13.0+cu126" in names(found.requirements)
    assert found.torch_index == torch_index.url


def test_a_cpu_wheel_in_a_folder_never_stands_in_for_the_default_build(
    index: Index, tmp_path: Path
) -> None:
    folder = tmp_path / "wheels"
    folder.mkdir()
    write(torch("cpu"), {}, folder)
    asked = wish(index, build="cu130", pypi=True, find_links=(str(folder),))
    with pytest.raises(Unresolved):
        resolve(asked)
    index.add(torch(""))
    found = resolve(asked)
    assert "torch==2.13.0" in names(found.requirements)
    assert found.torch_index == ""


def test_another_build_under_the_same_number_is_refused(index: Index) -> None:
    index.add(torch("cu118"))
    with pytest.raises(Unresolved) as reason:
        resolve(wish(index, build="cu130", pypi=True))
    assert "found torch 2.13.0+cu118, wanted build cu130" in str(reason.value)


@pytest.mark.parametrize(
    ("requirement", "said"),
    [
        ("nosuchthing", "nosuchthing was not found"),
        ("numpy>=99", "numpy>=99"),
        ("torch==2.0", "torch"),
        ("onlysource", "onlysource"),
    ],
)
def test_what_cannot_be_resolved_is_said_in_uvs_words(
    index: Index, torch_index: Index, requirement: str, said: str
) -> None:
    torch_index.add(torch("cu126"))
    index.add_source("onlysource", "1.0")
    with pytest.raises(Unresolved) as reason:
        resolve(wish(index, torch_index=torch_index.url, requirements=(requirement,)))
    assert said in str(reason.value)
    assert len(str(reason.value)) < 2000


def test_an_index_that_is_not_there_is_said_without_credentials(index: Index) -> None:
    with pytest.raises(Unresolved) as reason:
        resolve(wish(index, torch_index="http://me:hunter2@127.0.0.1:9/simple"))
    assert "127.0.0.1:9/simple" in str(reason.value)
    assert "hunter2" not in str(reason.value)


def test_only_the_inventorys_places_count(
    index: Index, torch_index: Index, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    torch_index.add(torch("cu126"))
    folder = tmp_path / "other"
    folder.mkdir()
    write(wheel("numpy", "99.0", MANYLINUX), {}, folder)
    for name in ("UV_INDEX_URL", "UV_DEFAULT_INDEX", "UV_EXTRA_INDEX_URL"):
        monkeypatch.setenv(name, "http://127.0.0.1:9/simple")
    monkeypatch.setenv("UV_FIND_LINKS", str(folder))
    config = tmp_path / "uv.toml"
    config.write_text('index-url = "http://127.0.0.1:9/simple"\n')
    monkeypatch.setenv("UV_CONFIG_FILE", str(config))
    found = resolve(wish(index, torch_index=torch_index.url))
    assert "numpy==2.4.6" in names(found.requirements)


def test_a_wish_is_resolved_once_in_a_run(
    index: Index, torch_index: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch_index.add(torch("cu126"))
    calls = []
    real = environment._compile

    def counted(*arguments: Any) -> Any:
        calls.append(arguments)
        return real(*arguments)

    monkeypatch.setattr(environment, "_compile", counted)
    resolver = Resolver()
    asked = wish(index, torch_index=torch_index.url)
    impossible = dataclasses.replace(asked, requirements=("nosuchthing",))
    assert resolver(asked) is resolver(dataclasses.replace(asked))
    assert len(calls) == 2  # the environment, and uv itself
    assert isinstance(resolver(impossible), str)
    assert resolver(impossible) == resolver(impossible)
    assert len(calls) == 3


def test_a_uv_that_hangs_is_left(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "TIMEOUT_S", 0.01)
    with pytest.raises(Unresolved, match="no answer after"):
        resolve(wish(index, torch_index=index.url))


# ---- the whole environment, from month to month


FLOATING = ("filelock", "nvidia-nvjitlink>=13.0.88,<14", "cuda-bindings>=13.0.3,<14")
TODAY = {"nvidia-nvjitlink": "13.0.88", "cuda-bindings": "13.0.3", "jupyterlab": "4.6.1"}
LATER = {"nvidia-nvjitlink": "13.5.37", "cuda-bindings": "13.5.0", "jupyterlab": "4.7.0"}


def month(index: Index, versions: dict[str, str]) -> None:
    """Publish more wheels; what is there stays. uv keeps pages for ten minutes, not a month."""
    shutil.rmtree(os.environ["UV_CACHE_DIR"], ignore_errors=True)
    index.add(*(wheel(name, number) for name, number in versions.items()))


def companions(torch_index: Index, *builds: str) -> None:
    for build in builds:
        needs = ("torch==2.13.0", "numpy")
        torch_index.add(wheel("torchvision", f"0.28.0+{build}", MANYLINUX, needs))
        torch_index.add(wheel("torch", f"2.13.0+{build}", MANYLINUX, FLOATING))


@pytest.fixture
def whole(index: Index, torch_index: Index) -> EnvironmentWish:
    """torch, torchvision of its build and JupyterLab, as an index has them today."""
    companions(torch_index, "cu126", "cu130")
    index.add(wheel("torchvision", "0.28.0", MANYLINUX), wheel("torchvision", "0.29.0", MANYLINUX))
    month(index, TODAY)
    return wish(
        index,
        torch_index=torch_index.url,
        build="cu126",
        requirements=("jupyterlab", "numpy"),
        companions=("torchvision==0.28.0",),
    )


def test_companions_and_extras_are_locked_with_the_build_of_torch(whole: EnvironmentWish) -> None:
    found = resolve(whole)
    assert names(found.requirements) == [
        "cuda-bindings==13.0.3",
        "filelock==4.2.11",
        "jupyterlab==4.6.1",
        "numpy==2.4.6",
        "nvidia-nvjitlink==13.0.88",
        "torch==2.13.0+cu126",
        "torchvision==0.28.0+cu126",
    ]
    assert all("--hash=sha256:" in line for line in found.requirements)


def test_a_companion_of_another_build_is_refused(index: Index) -> None:
    index.add(torch(""), wheel("torchvision", "0.28.0+cu118", MANYLINUX))
    with pytest.raises(Unresolved, match=r"found torchvision 0.28.0\+cu118, wanted build cu130"):
        resolve(wish(index, build="cu130", pypi=True, companions=("torchvision==0.28.0",)))


@pytest.mark.long
def test_what_floats_moves_only_when_asked(whole: EnvironmentWish, index: Index) -> None:
    first = resolve(whole)
    month(index, LATER)
    assert resolve(whole, first) == first
    moved = resolve(whole, first.model_copy(update={"requirements": ()}))
    assert moved == resolve(whole)
    assert moved.id != first.id
    assert set(names(moved.requirements)) - set(names(first.requirements)) == {
        f"{name}=={number}" for name, number in LATER.items()
    }


@pytest.mark.long
def test_another_torch_moves_what_it_must(
    whole: EnvironmentWish, index: Index, torch_index: Index
) -> None:
    first = resolve(whole)
    month(index, LATER)
    needs = ("filelock", "nvidia-nvjitlink>=13.5", "cuda-bindings>=13.0.3,<14")
    torch_index.add(wheel("torch", "2.14.1+cu126", MANYLINUX, needs))
    torch_index.add(wheel("torchvision", "0.29.1+cu126", MANYLINUX, ("torch==2.14.1",)))
    newer = dataclasses.replace(whole, torch="2.14.1", companions=("torchvision==0.29.1",))
    moved = resolve(newer, first)
    assert set(names(moved.requirements)) - set(names(first.requirements)) == {
        "torch==2.14.1+cu126",
        "torchvision==0.29.1+cu126",
        "nvidia-nvjitlink==13.5.37",
    }


@pytest.mark.long
def test_venv_needs_no_uv_and_has_an_id_of_its_own(whole: EnvironmentWish) -> None:
    made_by_uv = resolve(whole)
    made_by_venv = resolve(dataclasses.replace(whole, kind="venv"))
    assert made_by_venv.requirements == made_by_uv.requirements
    assert made_by_venv.id != made_by_uv.id
    assert (made_by_venv.uv, made_by_venv.uv_hashes) == ("", ())


@pytest.mark.parametrize(
    "page",
    [
        b"\x00\xff\x1b[31m not a page",
        b'<a href="../../../numpy-9.9-py3-none-any.whl#sha256=00">numpy-9.9-py3-none-any.whl</a>',
        b'<a href="numpy-9.9-py3-none-any.whl#md5=00">numpy-9.9-py3-none-any.whl</a>',
        b'<a href="file:///etc/passwd">numpy-9.9-py3-none-any.whl</a>',
    ],
)
def test_an_index_of_nonsense_is_one_reason(index: Index, torch_index: Index, page: bytes) -> None:
    torch_index.add(torch("cu126"))
    (index.folder / "numpy" / "index.html").write_bytes(page)
    with pytest.raises(Unresolved) as reason:
        resolve(wish(index, torch_index=torch_index.url))
    assert "numpy" in str(reason.value)
    assert str(reason.value).isprintable()
    assert len(str(reason.value)) < 2000


# ---- a Python that uv brings


def downloads(folder: Path, **changes: Any) -> dict[str, Any]:
    """A site's list with two patches of 3.12, and another arch's."""
    entries = {}
    for patch, arch in ((9, "x86_64"), (11, "x86_64"), (12, "aarch64")):
        key = f"cpython-3.12.{patch}-linux-{arch}-gnu"
        entries[key] = {
            "name": "cpython",
            "arch": {"family": arch, "variant": None},
            "os": "linux",
            "libc": "gnu",
            "major": 3,
            "minor": 12,
            "patch": patch,
            "prerelease": "",
            "url": f"http://127.0.0.1:9/{key}.tar.gz",
            "sha256": f"{patch:064d}",
            "variant": None,
            "build": "20261110",
            **changes,
        }
    (folder / "list.json").write_text(json.dumps(entries))
    return entries


@pytest.fixture
def brought(index: Index, torch_index: Index) -> EnvironmentWish:
    """An environment on a Python from the site's list, which its index folder serves."""
    torch_index.add(wheel("torch", "2.13.0+cu126", "cp312-cp312-manylinux_2_28_x86_64", NEEDS))
    return wish(
        index,
        torch_index=torch_index.url,
        python="3.12",
        requirements=(),
        managed_python=True,
        python_downloads=f"{index.url}/list.json",
    )


@pytest.mark.long
def test_the_newest_patch_of_a_sites_list_is_locked_by_hash(
    brought: EnvironmentWish, index: Index
) -> None:
    entries = downloads(index.folder)
    found = resolve(brought)
    python = found.managed_python
    assert python is not None
    assert (python.version, python.key) == ("3.12.11", "cpython-3.12.11-linux-x86_64-gnu")
    assert python.sha256 == f"{11:064d}"
    given = json.loads(download_list(python))
    assert given == {python.key: {**entries[python.key], "build": None}}
    downloads(index.folder, url="http://127.0.0.1:9/another.tar.gz")
    assert resolve(brought, found) == found
    moved = resolve(brought, found.model_copy(update={"managed_python": None}))
    assert moved.id != found.id
    assert moved.managed_python is not None
    assert folder_of(moved.managed_python) != folder_of(python)


@pytest.mark.long
def test_uvs_own_list_pins_by_uvs_own_hash(
    brought: EnvironmentWish, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(environment, "_asked_size", lambda wheel: 0)  # its address is far away
    python = resolve(dataclasses.replace(brought, python_downloads="")).managed_python
    assert python is not None
    assert python.version.startswith("3.12.")
    assert python.key == f"cpython-{python.version}-linux-x86_64-gnu"
    assert python.url.startswith("https://")
    assert (python.sha256, download_list(python)) == ("", "")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"sha256": None}, "has no sha256 for cpython-3.12.11-linux-x86_64-gnu"),
        ({"url": "http://me:hunter2@127.0.0.1:9/a.tar.gz"}, "a url of cpython-3.12.11"),
        ({"url": "ftp://127.0.0.1:9/$(id)"}, "a url of cpython-3.12.11"),
        ({"minor": 13}, "has no build of Python 3.12"),
        ({"arch": "x86_64"}, "is not understood"),
    ],
)
def test_a_list_that_names_no_build_to_trust_is_refused(
    brought: EnvironmentWish, index: Index, change: dict[str, Any], said: str
) -> None:
    downloads(index.folder, **change)
    with pytest.raises(Unresolved, match=said) as reason:
        resolve(brought)
    assert "hunter2" not in str(reason.value)


@pytest.mark.parametrize(
    ("text", "said"), [("<html>", "is no JSON"), ("[]", "uv's form"), ('{"a": 1}', "uv's form")]
)
def test_a_list_that_is_none_is_refused(
    brought: EnvironmentWish, index: Index, text: str, said: str
) -> None:
    (index.folder / "list.json").write_text(text)
    with pytest.raises(Unresolved, match=said):
        resolve(brought)


def test_a_list_that_is_not_there_is_said(brought: EnvironmentWish) -> None:
    with pytest.raises(Unresolved, match=r"list.json cannot be read: .*404"):
        resolve(brought)
