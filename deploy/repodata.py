"""A repository of rpms as its index describes it: bytes in, offers out. Pure.

The bytes come from a vendor's server through a host: all of it is bounded, the index is checked
against its signature and the parts against the index, XML is read without document types or
entities, and a package outside the strict grammar is left out.
"""

import bz2
import hashlib
import io
import lzma
import re
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any, cast
from xml.parsers import expat

import yaml
import zstandard

from deploy.evr import GRAMMAR, evr
from deploy.solving.offers import Offer

# isort: split
from pysequoia import Cert, Sig, verify

UNPACKED = 300_000_000
"""Bytes of one part; the vendor's largest index unpacks to a few ten million."""
MODULES_UNPACKED = 30_000_000
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9+._\-]{0,200}")
CAPABILITY = re.compile(r"[A-Za-z0-9][A-Za-z0-9+.\-]{0,200}")
"""A capability that is a plain name; paths, sonames and conditions are left to dnf."""
VERSION = re.compile(r"(\d+:)?[A-Za-z0-9][A-Za-z0-9.+~]*(-[A-Za-z0-9.+~]+)?")
STREAM = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+\-]{0,100}")
OPERATORS = {"EQ": "=", "LT": "<<", "LE": "<=", "GT": ">>", "GE": ">="}


class BadIndex(Exception):  # noqa: N818 - an answer, not a fault
    """The index cannot be trusted or read; the message says why."""


def check_signature(index: bytes, signature: bytes, key: str) -> None:
    """The index must be what this key has signed. Raises BadIndex."""
    certificate = Cert.from_bytes(key.encode())
    try:
        verify(index, lambda _ids: [certificate], signature=Sig.from_bytes(signature))
    except Exception:
        raise BadIndex("its signature does not fit its index") from None


def digests(index: bytes) -> dict[str, tuple[str, str]]:
    """Kind of part -> algorithm and digest of its file, from repomd.xml. Raises BadIndex."""
    found: dict[str, tuple[str, str]] = {}
    now = {"kind": "", "algorithm": "", "text": ""}

    def start(name: str, attributes: dict[str, str]) -> None:
        if name == "data":
            now["kind"] = attributes.get("type", "")
        now["algorithm"] = attributes.get("type", "") if name == "checksum" else ""
        now["text"] = ""

    def text(data: str) -> None:
        if now["algorithm"]:
            now["text"] += data

    def end(name: str) -> None:
        if name == "checksum":
            found.setdefault(now["kind"], (now["algorithm"], now["text"].strip()))

    _parse(index, start, end, text, len(index) + 1)
    return found


def check_part(data: bytes, kind: str, listed: dict[str, tuple[str, str]]) -> None:
    """A part must be the file that the index lists. Raises BadIndex."""
    algorithm, digest = listed.get(kind, ("", ""))
    if algorithm not in {"sha256", "sha384", "sha512"}:
        raise BadIndex(f"its index names no usable digest of its {kind}")
    if hashlib.new(algorithm, data).hexdigest() != digest:
        raise BadIndex(f"its {kind} is not what its index lists")


def offers(primary: bytes, modules: bytes, machine: str) -> Iterator[Offer]:
    """Every package for a machine type (x86_64, aarch64), once for each module stream that lists
    it. Raises BadIndex."""
    held = streams(modules)
    for package in _packages(primary):
        if package["arch"] not in {machine, "noarch"} or not NAME.fullmatch(package["name"]):
            continue
        full = f"{package['ver']}-{package['rel']}"
        if package["epoch"] not in {"", "0"}:
            full = f"{package['epoch']}:{full}"
        if not GRAMMAR.fullmatch(full) or not re.fullmatch(r"\d{1,15}", package["size"]):
            continue
        for stream in held.get((package["name"], evr(full), package["arch"])) or ("",):
            yield Offer(
                name=package["name"],
                version=full,
                size=int(package["size"]),
                depends=_joined(package["requires"]),
                provides=_joined(package["provides"], but=package["name"]),
                conflicts=_joined(package["conflicts"]),
                stream=stream,
            )


def streams(modules: bytes) -> dict[tuple[str, str, str], list[str]]:
    """Name, version and architecture of a package -> module streams that list it, sorted, from
    modules.yaml. Raises BadIndex."""
    found: dict[tuple[str, str, str], set[str]] = defaultdict(set)
    if not modules:
        return {}
    text = b"".join(_unpacked(modules, MODULES_UNPACKED))
    try:
        for document in yaml.load_all(text, Loader=yaml.CSafeLoader):
            if not isinstance(document, dict) or document.get("document") != "modulemd":
                continue
            data = document["data"]
            name, stream = str(data["name"]), str(data["stream"])
            if not STREAM.fullmatch(name) or not STREAM.fullmatch(stream):
                continue
            for artifact in (data.get("artifacts") or {}).get("rpms") or ():
                if parts := _ARTIFACT.fullmatch(str(artifact)):
                    found[parts[1], evr(parts[2]), parts[3]].add(f"{name}:{stream}")
    except (yaml.YAMLError, KeyError, TypeError, AttributeError, ValueError, RecursionError):
        raise BadIndex("its modules make no sense") from None
    return {package: sorted(names) for package, names in found.items()}


_ARTIFACT = re.compile(r"(.+)-((?:\d+:)?[A-Za-z0-9._+~^]+-[A-Za-z0-9._+~^]+)\.([a-z0-9_]+)")


def _packages(primary: bytes) -> Iterator[dict[str, Any]]:
    """Packages of primary.xml as flat values and lists of relations."""
    done: list[dict[str, Any]] = []
    now: dict[str, Any] = {}
    state = {"into": "", "text": ""}
    lists = {"rpm:requires": "requires", "rpm:provides": "provides", "rpm:conflicts": "conflicts"}

    def start(name: str, attributes: dict[str, str]) -> None:
        state["text"] = ""
        if name == "package":
            now.clear()
            now.update(name="", arch="", epoch="", ver="", rel="", size="0")
            now.update(requires=[], provides=[], conflicts=[])
        elif name == "version" and now:
            now.update({key: attributes.get(key, "") for key in ("epoch", "ver", "rel")})
        elif name == "size" and now:
            now["size"] = attributes.get("package", "0")
        elif name.startswith("rpm:") and name != "rpm:entry":
            state["into"] = lists.get(name, "")
        elif name == "rpm:entry" and now and state["into"] and (one := _relation(attributes)):
            now[state["into"]].append(one)

    def text(data: str) -> None:
        if len(state["text"]) < 1000:
            state["text"] += data

    def end(name: str) -> None:
        if name in {"name", "arch"} and now:
            now[name] = state["text"].strip()
        elif name in lists:
            state["into"] = ""
        elif name == "package" and now:
            done.append(dict(now))
            now.clear()

    _parse(primary, start, end, text, UNPACKED)
    yield from done


def _relation(attributes: dict[str, str]) -> str:
    """A relation in the text form that offers have; "" for what is no plain name. A name that is
    qualified by the architecture stands for the plain one."""
    name = re.sub(r"\((x86-64|aarch-64)\)$", "", attributes.get("name", ""))
    if not CAPABILITY.fullmatch(name):
        return ""
    operator = OPERATORS.get(attributes.get("flags", ""), "")
    version = attributes.get("ver", "")
    if not operator:
        return name
    if attributes.get("rel"):
        version += f"-{attributes['rel']}"
    if attributes.get("epoch") not in {None, "", "0"}:
        version = f"{attributes['epoch']}:{version}"
    return f"{name} ({operator} {version})" if VERSION.fullmatch(version) else ""


def _joined(relations: list[str], but: str = "") -> str:
    """Each once, in order, without those about the package itself."""
    kept = (one for one in dict.fromkeys(relations) if one.partition(" ")[0] != but)
    return ", ".join(kept)


def _parse(
    data: bytes,
    start: Callable[[str, dict[str, str]], None],
    end: Callable[[str], None],
    text: Callable[[str], None],
    limit: int,
) -> None:
    def refuse(*_: object) -> None:
        raise BadIndex("it declares a document type, which no index needs")

    parser = expat.ParserCreate()
    parser.StartDoctypeDeclHandler = refuse
    parser.EntityDeclHandler = refuse
    parser.StartElementHandler = start
    parser.EndElementHandler = end
    parser.CharacterDataHandler = text
    parser.buffer_text = True
    try:
        for piece in _unpacked(data, limit):
            parser.Parse(piece, False)
        parser.Parse(b"", True)
    except expat.ExpatError as error:
        raise BadIndex(f"its index is no XML ({error})") from None


def _unpacked(data: bytes, limit: int) -> Iterator[bytes]:
    """The content in pieces, whatever it is packed with. Raises BadIndex when it is damaged or
    unpacks to more than `limit` bytes."""
    size = 0
    try:
        for piece in _pieces(data):
            size += len(piece)
            if size > limit:
                raise BadIndex("it is larger than any index")
            yield piece
    except (zlib.error, lzma.LZMAError, OSError, EOFError, zstandard.ZstdError) as error:
        raise BadIndex(f"its index is damaged ({str(error)[:100]})") from None


def _pieces(data: bytes) -> Iterator[bytes]:
    stream: Any = io.BytesIO(data)
    if data.startswith(b"\x1f\x8b"):
        unpacker = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)
        rest = data
        while rest and not unpacker.eof:
            yield unpacker.decompress(rest, _PIECE)
            rest = unpacker.unconsumed_tail
        if not unpacker.eof:
            raise EOFError("cut off")
        return
    if data.startswith(b"\x28\xb5\x2f\xfd"):
        stream = zstandard.ZstdDecompressor().stream_reader(stream)
    elif data.startswith(b"\xfd7zXZ"):
        stream = lzma.open(stream)  # noqa: SIM115 - over memory, read to its end below
    elif data.startswith(b"BZh"):
        stream = bz2.open(stream)  # noqa: SIM115
    while piece := cast(bytes, stream.read(_PIECE)):
        yield piece


_PIECE = 1_000_000
