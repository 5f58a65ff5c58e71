"""Indexes of rpm repositories: what a small one says, and what a bad one may say."""

import base64
import bz2
import gzip
import hashlib
import lzma
import os
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st
from pysequoia import Profile, SignatureMode, Tsk, sign

from deploy import available, repodata
from deploy.available import NoAnswer, read_answer
from deploy.fleet.conversation import Result
from deploy.repodata import BadIndex, offers, streams
from deploy.solving.place import Place

DRIVER = "3:580.178.04-1.el9"


def package(name: str, body: str = "", *, arch: str = "x86_64", epoch: str = "3") -> str:
    return f"""<package type="rpm"><name>{name}</name><arch>{arch}</arch>
<version epoch="{epoch}" ver="580.178.04" rel="1.el9"/><size package="1234" installed="9"/>
<location href="{name}.rpm"/><format>{body}<file>/usr/bin/{name}</file></format></package>"""


RELATIONS = """<rpm:provides>
<rpm:entry name="nvidia-driver-cuda" flags="EQ" epoch="3" ver="580.178.04" rel="1.el9"/>
<rpm:entry name="nvidia-driver-cuda(x86-64)" flags="EQ" epoch="3" ver="580.178.04" rel="1.el9"/>
<rpm:entry name="nvidia-smi" flags="EQ" epoch="0" ver="580.178.04"/></rpm:provides>
<rpm:requires><rpm:entry name="libnvidia-ml(x86-64)" flags="EQ" epoch="3" ver="580.178.04"/>
<rpm:entry name="libnvidia-ml" flags="EQ" epoch="3" ver="580.178.04"/>
<rpm:entry name="/bin/sh" pre="1"/><rpm:entry name="libc.so.6()(64bit)"/>
<rpm:entry name="(opencl-filesystem if ocl-icd)"/>
<rpm:entry name="nvidia-kmod" flags="GE" epoch="3" ver="580"/></rpm:requires>
<rpm:conflicts><rpm:entry name="nvidia-x11-drv"/></rpm:conflicts>
<rpm:obsoletes><rpm:entry name="old-name" flags="LT" epoch="0" ver="5"/></rpm:obsoletes>"""


def primary(*packages: str) -> bytes:
    head = '<?xml version="1.0" encoding="UTF-8"?>\n<metadata xmlns="http://linux.duke.edu/metadata'
    return (
        f'{head}/common" xmlns:rpm="http://linux.duke.edu/metadata/rpm">{"".join(packages)}'
        "</metadata>"
    ).encode()


def modules(*streams_of: tuple[str, str]) -> bytes:
    return "".join(
        f"""---
document: modulemd
version: 2
data:
  name: nvidia-driver
  stream: {stream}
  artifacts:
    rpms:
    - {artifact}
"""
        for stream, artifact in streams_of
    ).encode()


def index(**parts: bytes) -> bytes:
    data = "".join(
        f'<data type="{kind}"><checksum type="sha256">{hashlib.sha256(part).hexdigest()}</checksum>'
        f'<location href="repodata/{kind}.xml"/></data>'
        for kind, part in parts.items()
    )
    return f'<repomd xmlns="http://linux.duke.edu/metadata/repo">{data}</repomd>'.encode()


def test_a_package_and_its_relations() -> None:
    (found,) = offers(primary(package("nvidia-driver-cuda", RELATIONS)), b"", "x86_64")
    assert (found.name, found.version, found.size, found.stream) == (
        "nvidia-driver-cuda",
        DRIVER,
        1234,
        "",
    )
    assert found.depends == "libnvidia-ml (= 3:580.178.04), nvidia-kmod (>= 3:580)"
    assert found.provides == "nvidia-smi (= 580.178.04)"
    assert found.conflicts == "nvidia-x11-drv"
    assert [str(group[0]) for group in found.needs] == found.depends.split(", ")


def test_a_package_stands_once_for_each_stream() -> None:
    artifact = f"libnvidia-ml-{DRIVER}.x86_64"
    listed = modules(
        ("580-open", artifact), ("580-dkms", artifact), ("595-open", "other-1-1.noarch")
    )
    found = list(offers(primary(package("libnvidia-ml"), package("nvlsm")), listed, "x86_64"))
    assert [(one.name, one.stream) for one in found] == [
        ("libnvidia-ml", "nvidia-driver:580-dkms"),
        ("libnvidia-ml", "nvidia-driver:580-open"),
        ("nvlsm", ""),
    ]


def test_another_machine_and_odd_names_are_left_out() -> None:
    found = offers(
        primary(
            package("a", arch="aarch64"),
            package("b", arch="src"),
            package("c", arch="i686"),
            package("d", arch="noarch", epoch="0"),
            package("e; rm -rf /"),
            package("f", epoch="x"),
        ),
        b"",
        "x86_64",
    )
    assert [(one.name, one.version) for one in found] == [("d", "580.178.04-1.el9")]


@pytest.mark.parametrize(
    "pack",
    [bytes, gzip.compress, lzma.compress, bz2.compress, zstandard.ZstdCompressor().compress],
)
def test_every_packing_is_read(pack: object) -> None:
    packed = pack(primary(package("nvlsm")))  # type: ignore[operator]
    assert [one.name for one in offers(packed, b"", "x86_64")] == ["nvlsm"]
    if pack is not bytes:
        with pytest.raises(BadIndex, match=r"damaged|no XML"):
            list(offers(packed[: len(packed) // 2], b"", "x86_64"))


BOMB = b"""<?xml version="1.0"?><!DOCTYPE m [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;">]>
<metadata><package><name>&b;</name></package></metadata>"""


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (BOMB, "document type"),
        (b'<!DOCTYPE m SYSTEM "file:///etc/passwd"><metadata/>', "document type"),
        (b"<metadata><package>", "no XML"),
        (b"", "no XML"),
        (b"\x00\xff", "no XML"),
    ],
)
def test_an_index_that_is_none(text: bytes, said: str) -> None:
    with pytest.raises(BadIndex, match=said):
        list(offers(text, b"", "x86_64"))


def test_an_index_that_unpacks_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(repodata, "UNPACKED", 10_000)
    with pytest.raises(BadIndex, match="larger"):
        list(offers(gzip.compress(primary() + b" " * 3_000_000), b"", "x86_64"))


@pytest.mark.parametrize(
    "text",
    [
        b"document: modulemd\ndata: 7",
        b"document: modulemd",
        b"{[",
        b"!!python/object/apply:os.system ['touch /tmp/owned']",
        b"[" * 5000,
    ],
)
def test_modules_that_make_no_sense(text: bytes) -> None:
    with pytest.raises(BadIndex, match="make no sense"):
        streams(text)


def test_odd_streams_and_artifacts_are_left_out() -> None:
    text = modules(("$(id)", f"a-{DRIVER}.x86_64"), ("ok", "no version"), ("ok", "a-1-1.x86_64"))
    assert streams(text) == {("a", "1-1", "x86_64"): ["nvidia-driver:ok"]}


@given(st.binary(max_size=300))
@settings(max_examples=60, deadline=None)
def test_any_bytes_are_refused_or_read(data: bytes) -> None:
    for read in (lambda: list(offers(data, b"", "x86_64")), lambda: streams(data)):
        try:
            read()
        except BadIndex:
            continue


# ---- whole answers of a host

KEY = Tsk.generate("Vendor <vendor@example.org>", profile=Profile.RFC4880)
CERTIFICATE = KEY.extract_certificate()
PLACE = Place(
    distribution="rhel9",
    machine="x86_64",
    url="http://vendor.example/rhel9",
    key_url="http://vendor.example/rhel9/D42D0685.pub",
    key_fingerprint=str(CERTIFICATE.fingerprint).upper(),
    packaging="dnf",
)


def answer(**changes: bytes) -> str:
    """What a host prints about a good repository, some parts changed."""
    listed = modules(("580-open", f"libnvidia-ml-{DRIVER}.x86_64"))
    packages = primary(package("libnvidia-ml"), package("nvlsm"))
    repomd = changes.get("repomd", index(primary=packages, modules=listed))
    parts = {
        "key": str(CERTIFICATE).encode(),
        "repomd": repomd,
        "signature": sign(KEY.signer(), repomd, mode=SignatureMode.DETACHED),
        "primary": packages,
        "modules": listed,
    }
    lines = [available.FIRST]
    for name, data in {**parts, **changes}.items():
        lines += [f"part {name}", *base64.encodebytes(data).decode().splitlines()]
    return "\n".join([*lines, available.LAST])


def test_a_good_answer() -> None:
    found = read_answer(PLACE, answer())
    assert found.packaging == "dnf"
    assert found.repository.kind == "dnf"
    assert found.streams("nvidia-driver") == ["nvidia-driver:580-open"]
    assert found.of("vendor").names() == ["nvlsm"]
    assert found.of("vendor", "nvidia-driver:580-open").names() == ["libnvidia-ml", "nvlsm"]


def test_an_index_that_nobody_signed_is_taken_as_the_vendors_own_configuration_takes_it() -> None:
    assert read_answer(PLACE, answer(signature=b"")).names() == ["libnvidia-ml", "nvlsm"]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"signature": b"nonsense"}, "its signature does not fit"),
        (
            {"signature": sign(KEY.signer(), b"another index", mode=SignatureMode.DETACHED)},
            "its signature does not fit",
        ),
        ({"primary": primary(package("evil"))}, "its primary is not what its index lists"),
        ({"modules": b""}, "its modules is not what its index lists"),
        ({"repomd": index(), "signature": b""}, "names no usable digest of its primary"),
        ({"repomd": BOMB, "signature": b""}, "document type"),
        ({"key": b"nonsense"}, "no OpenPGP certificate"),
        ({"strange": b"x"}, "not understood"),
    ],
)
def test_bad_answers(changes: dict[str, bytes], said: str) -> None:
    with pytest.raises(NoAnswer, match=said):
        read_answer(PLACE, answer(**changes))


def test_a_weak_digest_is_none() -> None:
    packages = primary(package("nvlsm"))
    digest = hashlib.md5(packages).hexdigest()
    weak = index(primary=packages).replace(b"sha256", b"md5")
    weak = weak.replace(hashlib.sha256(packages).hexdigest().encode(), digest.encode())
    with pytest.raises(NoAnswer, match="no usable digest"):
        read_answer(PLACE, answer(repomd=weak, primary=packages, modules=b"", signature=b""))


def test_what_a_host_is_told_is_quoted() -> None:
    text = available.script(PLACE)
    assert "url=http://vendor.example/rhel9\n" in text
    assert "curl" in text


# ---- through a host: this machine's own curl, and a repository in a folder


class Here:
    """This machine as a host, with a temporary directory that must be empty again at the end."""

    def __init__(self, temporary: Path) -> None:
        self.host = "here"
        self.temporary = temporary
        temporary.mkdir(exist_ok=True)

    def run(self, command: str, *, stdin: str, timeout_s: float, limit: int) -> Result:
        done = subprocess.run(
            ["sh", "-c", command],
            input=stdin,
            capture_output=True,
            text=True,
            timeout=60,
            cwd="/",
            env={**os.environ, "TMPDIR": str(self.temporary)},
        )
        assert done.stderr == ""
        assert list(self.temporary.iterdir()) == []
        return Result(done.returncode, done.stdout[:limit], done.stderr, 0.1, "")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A good repository."""
    listed = modules(("580-open", f"libnvidia-ml-{DRIVER}.x86_64"))
    packages = primary(package("libnvidia-ml"), package("nvlsm"))
    repomd = index(primary=packages, modules=listed)
    data = tmp_path / "repo" / "repodata"
    data.mkdir(parents=True)
    (data / "repomd.xml").write_bytes(repomd)
    (data / "repomd.xml.asc").write_bytes(sign(KEY.signer(), repomd, mode=SignatureMode.DETACHED))
    (data / "primary.xml").write_bytes(packages)
    (data / "modules.xml").write_bytes(listed)
    (data.parent / "D42D0685.pub").write_bytes(str(CERTIFICATE).encode())
    return data.parent


def asked(folder: Path, **changes: str) -> str:
    """The names that this repository offers, or why it offers none."""
    place = replace(PLACE, url=f"file://{folder}", key_url=f"file://{folder}/D42D0685.pub")
    try:
        found = available.ask(replace(place, **changes), Here(folder.parent / "tmp"))
    except NoAnswer as reason:
        return str(reason)
    return " ".join(found.of("vendor", "nvidia-driver:580-open").names())


needs_curl = pytest.mark.skipif(shutil.which("curl") is None, reason="no curl here")


@needs_curl
def test_a_host_fetches_what_is_there(folder: Path) -> None:
    assert asked(folder) == "libnvidia-ml nvlsm"


@needs_curl
def test_a_repository_without_signature_and_modules(folder: Path) -> None:
    packages = primary(package("nvlsm"))
    (folder / "repodata/repomd.xml").write_bytes(index(primary=packages))
    (folder / "repodata/primary.xml").write_bytes(packages)
    (folder / "repodata/repomd.xml.asc").unlink()
    assert asked(folder) == "nvlsm"


@needs_curl
@pytest.mark.parametrize(
    ("path", "content", "said"),
    [
        ("repodata/repomd.xml", b"", "could not be fetched|does not fit"),
        ("repodata/repomd.xml.asc", b"nonsense", "signature does not fit"),
        ("repodata/primary.xml", b"<metadata/>", "primary is not what its index lists"),
        ("D42D0685.pub", b"x" * 70_000, "its key could not be fetched"),
        ("D42D0685.pub", b"nonsense", "no OpenPGP certificate"),
    ],
)
def test_what_a_bad_repository_serves(folder: Path, path: str, content: bytes, said: str) -> None:
    (folder / path).write_bytes(content)
    assert re.search(said, asked(folder))


@needs_curl
def test_an_index_that_points_elsewhere_is_not_followed(folder: Path) -> None:
    (folder.parent / "secret").write_text("x")
    evil = index(primary=b"x").replace(b"repodata/primary.xml", b"../secret")
    (folder / "repodata/repomd.xml").write_bytes(evil)
    assert "the index points to ../secret" in asked(folder)


@needs_curl
def test_nothing_there(folder: Path) -> None:
    assert "its key could not be fetched" in asked(folder, key_url=f"file://{folder}/none")
    assert "could not be fetched" in asked(folder, url=f"file://{folder}/none")
