"""The apt repositories: what is in them, and that the real apt verifies and resolves them."""

from __future__ import annotations

import gzip
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from debian.deb822 import Deb822, Packages
from debian.debian_support import Version
from pysequoia import Cert

from tests.sim.vendor import VendorRepo, assemble, branches, build, debian, driver, repo
from tests.sim.vendor.packages import Package

from .conftest import KERNEL

CATALOGUES = {
    "cuda": assemble.vendor_packages(),
    "extra": debian.packages(KERNEL),
}
EVERY_DRIVER_PACKAGE = [
    *("libcuda1", "libcudadebugger1", "libnvidia-cfg1", "libnvidia-ml1", "nvidia-smi"),
    *("libnvidia-ptxjitcompiler1", "nvidia-modprobe", "nvidia-persistenced", "nvidia-driver-cuda"),
    *("nvidia-kernel-support", "firmware-nvidia-gsp", "nvidia-kernel-open-dkms"),
]
ASKED = ["nvidia-driver-cuda", "nvidia-kernel-open-dkms"]


def index(repository: VendorRepo, which: str) -> dict[tuple[str, str], Deb822]:
    """Stanzas of a repository's Packages by name and version."""
    file = repository.root / getattr(repository, which) / "Packages"
    with file.open() as stream:
        found = {
            (s["Package"], s["Version"]): s
            for s in Packages.iter_paragraphs(stream, use_apt_pkg=False)
        }
    assert gzip.decompress(file.with_suffix(".gz").read_bytes()) == file.read_bytes()
    return found


@pytest.mark.parametrize("which", CATALOGUES)
def test_the_index_is_the_catalogue(repository: VendorRepo, which: str) -> None:
    stanzas = index(repository, which)
    assert set(stanzas) == {(p.name, p.version) for p in CATALOGUES[which]}
    assert len(stanzas) == len(CATALOGUES[which]), "a package is listed twice"
    for package in CATALOGUES[which]:
        stanza = stanzas[package.name, package.version]
        assert package.control() == {key: stanza[key] for key in package.control()}


def satisfied(alternative: dict, names: dict[str, list[tuple[str, str]]]) -> bool:
    """Whether a package or something that it provides answers one alternative of a dependency."""
    for _, version in names.get(alternative["name"], []):
        if alternative["version"] is None:
            return True
        relation, wanted = alternative["version"]
        order = (Version(version) > Version(wanted)) - (Version(version) < Version(wanted))
        if order in {"=": (0,), ">=": (0, 1), "<=": (0, -1), ">>": (1,), "<<": (-1,)}[relation]:
            return True
    return False


def test_every_dependency_exists(repository: VendorRepo) -> None:
    stanzas = index(repository, "cuda") | index(repository, "extra")
    names: dict[str, list[tuple[str, str]]] = {
        name: [("Debian", "99")] for name in ("kmod", "gcc", "make", "build-essential")
    }
    for (name, version), stanza in stanzas.items():
        names.setdefault(name, []).append((name, version))
        for (provided,) in stanza.relations["provides"]:
            answer = provided["version"][1] if provided["version"] else version
            names.setdefault(provided["name"], []).append((name, answer))
    for key, stanza in stanzas.items():
        for alternatives in stanza.relations["depends"]:
            assert any(satisfied(a, names) for a in alternatives), (key, alternatives)


def test_names_and_versions_that_the_product_relies_on() -> None:
    """Sources: research provisioning 2.6 to 2.9."""
    versions: dict[str, set[str]] = {}
    for package in CATALOGUES["cuda"]:
        versions.setdefault(package.name, set()).add(package.version)
    drivers = {"580.159.04-1", "580.178.04-1", "595.71.05-1", "595.91.07-1"}
    for name in (*EVERY_DRIVER_PACKAGE, "nvidia-kernel-dkms", "nvidia-open", "cuda-drivers"):
        assert versions[name] == drivers
    for name in ("nvidia-fabricmanager", "nvidia-imex", "libnvidia-nscq"):
        assert versions[name] == drivers
    assert versions["cuda-toolkit-12-9"] == {"12.9.1-1"}
    assert versions["cuda-toolkit-13-0"] == {"13.0.2-1"}
    both = {"9.20.0.48-1", "9.24.0.43-1", "9.26.0.51-1"}
    assert versions["libcudnn9-cuda-13"] == versions["cudnn9-cuda-13"] == both
    assert versions["libcudnn9-dev-cuda-12"] == both | {"9.10.2.21-1"}
    assert versions["libnccl2"] == versions["libnccl-dev"]
    assert "2.30.7-1+cuda13.0" in versions["libnccl2"]
    assert versions["datacenter-gpu-manager-4-cuda13"] == {"1:4.5.2-1"}


def test_fabric_manager_depends_on_nothing() -> None:
    for package in CATALOGUES["cuda"]:
        if package.name == "nvidia-fabricmanager":
            assert "Depends" not in package.relations


def test_what_is_under_etc_is_a_conffile(repository: VendorRepo) -> None:
    (deb,) = (repository.root / repository.cuda).glob("nvidia-driver-pinning-580_*.deb")
    listed = subprocess.run(
        ["dpkg-deb", "-I", str(deb), "conffiles"], capture_output=True, text=True, check=True
    )
    assert listed.stdout == "/etc/apt/preferences.d/nvidia-driver-pin\n"


def test_a_left_over_placeholder_is_refused() -> None:
    from tests.sim.vendor.packages import text_file

    with pytest.raises(ValueError, match=r"@LICENSE@"):
        text_file("module.mk", VERSION="1")


# ---- the real apt


def test_apt_sees_origin_versions_and_the_second_origin(apt) -> None:
    policy = apt.run("apt-cache", "policy").stdout
    assert "o=NVIDIA,l=NVIDIA CUDA" in policy
    assert "l=Simulated Debian extra" in policy
    madison = apt.run("apt-cache", "madison", "libcuda1").stdout
    found = [line.split("|")[1].strip() for line in madison.splitlines()]
    assert found == [*(f"{v}-1" for v in reversed(driver.VERSIONS)), "535.247.01-1~deb12u1"]


def test_apt_takes_the_newest_branch_without_a_pin(apt) -> None:
    chosen = apt.install(*ASKED)
    assert chosen["nvidia-driver-cuda"] == chosen["nvidia-kernel-open-dkms"] == "595.91.07-1"


def test_asking_for_an_exact_leaf_alone_is_refused(apt) -> None:
    """apt moves only what is named: the exact dependencies stay at the newest version."""
    done = apt.run("apt-get", "install", "-s", *(f"{name}=580.178.04-1" for name in ASKED))
    assert done.returncode == 100
    assert "libcuda1 (= 580.178.04-1) but 595.91.07-1 is to be installed" in done.stdout


def test_an_older_version_resolves_when_all_its_parts_are_named(apt) -> None:
    chosen = apt.install(*(f"{name}=580.159.04-1" for name in EVERY_DRIVER_PACKAGE))
    assert {chosen.pop(name) for name in EVERY_DRIVER_PACKAGE} == {"580.159.04-1"}
    assert set(chosen) == {"dkms"}


def pin(apt, what: str) -> None:
    """Put the file of a pinning package where apt reads it."""
    (package,) = (p for p in CATALOGUES["cuda"] if p.name == f"nvidia-driver-pinning-{what}")
    ((path, content),) = package.payload.items()
    (apt.etc / "preferences.d" / Path(path).name).write_text(content.content)


@pytest.mark.parametrize(
    ("what", "version"), [("580", "580.178.04-1"), ("580.159.04", "580.159.04-1")]
)
def test_the_pin_wins_over_the_newest(apt, what: str, version: str) -> None:
    pin(apt, what)
    chosen = apt.install(*ASKED)
    assert {v for name, v in chosen.items() if name != "dkms"} == {version}


@pytest.mark.parametrize("meta", ["nvidia-open", "cuda-drivers"])
def test_a_meta_at_an_exact_version_does_not_pin(apt, meta: str) -> None:
    chosen = apt.install(f"{meta}=580.178.04-1")
    assert chosen[meta] == "580.178.04-1"
    assert chosen["nvidia-driver"] == chosen["libcuda1"] == "595.91.07-1"


def test_the_flavours_exclude_each_other(apt) -> None:
    done = apt.run("apt-get", "install", "-s", "nvidia-kernel-dkms", "nvidia-kernel-open-dkms")
    assert done.returncode == 100
    assert "Conflicts: nvidia-kernel" in done.stdout


def test_recommends_bring_the_closed_module(apt) -> None:
    done = apt.run("apt-get", "install", "-s", "libcuda1")
    assert "Inst nvidia-kernel-dkms (595.91.07-1" in done.stdout


def test_recommends_are_content_with_the_open_module(apt) -> None:
    planned = apt.run("apt-get", "install", "-s", *ASKED).stdout
    assert "Inst nvidia-kernel-open-dkms" in planned
    assert "Inst nvidia-kernel-dkms" not in planned


def test_only_one_pinning_package_at_a_time(apt) -> None:
    names = [f"nvidia-driver-pinning-{branch}" for branch in branches.BRANCHES]
    assert apt.run("apt-get", "install", "-s", *names).returncode == 100


def test_toolkits_live_side_by_side(apt) -> None:
    chosen = apt.install("cuda-toolkit-12-9", "cuda-toolkit-13-0")
    assert chosen["cuda-nvcc-12-9"] == "12.9.86-1"
    assert chosen["libcublas-dev-13-0"] == "13.1.0.3-1"


def test_the_meta_of_an_old_cudnn_drags_the_newest_library(apt) -> None:
    chosen = apt.install("cudnn9-cuda-13=9.20.0.48-1")
    assert chosen["libcudnn9-cuda-13"] == "9.26.0.51-1"


def test_the_extra_dkms_outranks_debians(apt) -> None:
    assert Version(debian.DKMS_VERSION) > Version("3.0.10-8+deb12u1")
    assert apt.install("dkms") == {"dkms": debian.DKMS_VERSION}


# ---- signatures


def copied(repository: VendorRepo, target: Path) -> Path:
    """A copy of the vendor's index files, to be falsified."""
    target = target / "cuda"
    target.mkdir()
    for name in ("InRelease", "Packages", "Packages.gz"):
        shutil.copy(repository.root / repository.cuda / name, target)
    return target


def test_a_tampered_index_is_rejected(repository, new_apt, serve, tmp_path: Path) -> None:
    root = copied(repository, tmp_path)
    for name, opener in (("Packages", open), ("Packages.gz", gzip.open)):
        text = opener(root / name, "rt").read()
        with opener(root / name, "wt") as stream:
            stream.write(text.replace("Filename: ./libcuda1", "Filename: ./evil"))
    apt = new_apt(f"deb [signed-by={repository.key_file}] {serve(root)} /")
    done = apt.run("apt-get", "update")
    assert done.returncode == 100
    assert "Hash Sum mismatch" in done.stderr or "unexpected size" in done.stderr


def test_a_tampered_release_is_rejected(repository, new_apt, serve, tmp_path: Path) -> None:
    root = copied(repository, tmp_path)
    text = (root / "InRelease").read_text()
    (root / "InRelease").write_text(text.replace("Origin: NVIDIA", "Origin: Nobody"))
    apt = new_apt(f"deb [signed-by={repository.key_file}] {serve(root)} /")
    done = apt.run("apt-get", "update")
    assert done.returncode == 100
    assert "BADSIG" in done.stderr


def test_another_key_is_rejected(repository, new_apt, url: str, tmp_path: Path) -> None:
    other = tmp_path / "other.asc"
    other.write_text(str(repo.signing_key(tmp_path / "other.pgp").extract_certificate()))
    apt = new_apt(f"deb [signed-by={other}] {url}/{repository.cuda} /")
    done = apt.run("apt-get", "update")
    assert done.returncode == 100
    assert (
        f"NO_PUBKEY {repository.key_fingerprint[-16:]}" in done.stderr or "NO_PUBKEY" in done.stderr
    )


def test_the_detached_signature_is_good_too(repository: VendorRepo, tmp_path: Path) -> None:
    root = repository.root / repository.cuda
    keyring = tmp_path / "key.gpg"
    keyring.write_bytes(bytes(Cert.from_file(str(repository.key_file))))
    command = ["gpgv", "--keyring", str(keyring), str(root / "Release.gpg"), str(root / "Release")]
    assert subprocess.run(command, capture_output=True, check=False).returncode == 0


def test_the_published_key_is_the_one_announced_and_holds_no_secret(repository) -> None:
    text = repository.key_file.read_text()
    assert text.startswith("-----BEGIN PGP PUBLIC KEY BLOCK-----")
    assert (
        Cert.from_file(str(repository.key_file)).fingerprint.upper() == repository.key_fingerprint
    )
    secrets = [f for f in repository.root.rglob("*") if f.is_file() and f.suffix == ".pgp"]
    assert secrets == []
    secret = repository.root.parent / "keys/vendor-repository.pgp"
    assert secret.stat().st_mode & 0o077 == 0


# ---- building


def pretend(asked: list[str]):
    """A build that notes the kernel it is for and makes only what `build` itself fills."""

    def fake(tree: Path, kernel: str, *_: object) -> None:
        asked.append(kernel)
        for place in assemble.PLACES.values():
            (tree / place.cuda).mkdir(parents=True)
            (tree / assemble.EARLIER / place.cuda).mkdir(parents=True)
            (tree / place.extra).mkdir()

    return fake


def test_equal_content_is_built_once_and_a_killed_build_swept_away(tmp_path, monkeypatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr(assemble, "_build", pretend(asked))
    stale = tmp_path / "vendor-0.tmp-killed"
    stale.mkdir()
    first = build(tmp_path, KERNEL)
    assert build(tmp_path, KERNEL) == first
    assert asked == [KERNEL]
    assert not stale.exists()
    other = build(tmp_path, "6.12.0-other")
    assert asked == [KERNEL, "6.12.0-other"]
    assert other.root != first.root
    assert other.key_fingerprint == first.key_fingerprint, "hosts go on trusting it"


def test_content_decides_the_directory(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(assemble, "_build", pretend([]))
    first = build(tmp_path, KERNEL)
    wheel = tmp_path / "torch-2.13.0+cpu-cp311-cp311-linux_x86_64.whl"
    wheel.write_bytes(b"one")
    monkeypatch.setattr(assemble, "cpu_wheels", lambda: [wheel])
    second = build(tmp_path, KERNEL)
    wheel.write_bytes(b"another")
    assert len({first.root, second.root, build(tmp_path, KERNEL).root}) == 3


def test_a_failed_build_leaves_nothing(tmp_path: Path, monkeypatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("gcc: no space left on device")

    monkeypatch.setattr(assemble.deb, "compile_all", fail)
    with pytest.raises(RuntimeError, match="no space left"):
        build(tmp_path, KERNEL)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["keys", "vendor.lock"]


def test_equal_sources_give_equal_packages(repository: VendorRepo, tmp_path: Path) -> None:
    package = Package("one", "1", "one", payload={"/usr/share/one": assemble.deb.Text("1\n")})
    made = []
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        assemble.deb.build_all([package], {}, tmp_path / name, 1)
        made.append((tmp_path / name / package.filename).read_bytes())
    assert made[0] == made[1]


def test_packages_do_not_depend_on_the_umask(tmp_path: Path) -> None:
    package = Package("one", "1", "one", payload={"/usr/share/one/file": assemble.deb.Text("1\n")})
    before = os.umask(0o077)
    try:
        assemble.deb.build_all([package], {}, tmp_path, 1)
    finally:
        os.umask(before)
    command = ["dpkg-deb", "-c", str(tmp_path / package.filename)]
    listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    modes = {line.split()[-1]: line.split()[0] for line in listed.splitlines()}
    assert modes["./usr/share/one/"] == "drwxr-xr-x"
    assert modes["./usr/share/one/file"] == "-rw-r--r--"


@pytest.mark.parametrize("release", ["6.18.44-cloud-v7", "5.15.153.1-Microsoft_standard-WSL2+"])
def test_any_kernel_release_gives_a_package_name(release: str) -> None:
    assert debian.package_suffix(release) == release.lower().replace("_", "-")
    for package in debian.kernel(release):
        assert f"/lib/modules/{release}" in "".join(package.payload)
