"""Indexes of rpm repositories: what a small one says, and what a bad one may say."""

import base64
import bz2
import gzip
import hashlib
import lzma

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st
from pysequoia import Profile, SignatureMode, Tsk, sign

from deploy import available, repodata
from deploy.available import NoAnswer, read_answer
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
