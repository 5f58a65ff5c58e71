"""What the vendor's repository offers, asked through one host without changing it.

A host runs `available.sh` (a private apt state in a temporary directory, no root) or
`available_rpm.sh` (nothing but downloads) and answers with the repository's key and its list of
packages. Whether the key is the right one is decided here: its fingerprint must be the catalogue's
or the inventory's, and nothing else may be in the file.
"""

import base64
import binascii
import re
import shlex
import zlib
from collections.abc import Iterable, Iterator
from importlib.resources import files
from itertools import islice
from typing import Protocol

from debian.deb822 import Packages

from deploy.fleet.conversation import Result
from deploy.fleet.redact import Redactor
from deploy.fleet.runs import printable
from deploy.interest import GPU_PACKAGES
from deploy.keys import WrongKey, one_key
from deploy.repodata import BadIndex, check_part, check_signature, digests, offers
from deploy.solve import Place
from deploy.solving.offers import Available, Offer, Unavailable
from deploy.stack import Origin, Repository

TIMEOUT_S = 300
MOST_ASKED = 3
"""A repository that three hosts cannot read is not read by asking a thousand."""
LIMIT = 16_000_000
"""Bytes of one answer; the vendor's whole index for one distribution is about 400 kB packed."""
UNPACKED = 64_000_000

FIRST, LAST = "gpufleet-available 1", "gpufleet-available end"

CAUSES = (
    (r"NO_PUBKEY|public key is not available", "it is signed by another key than it serves"),
    (r"BADSIG|signatures were invalid", "its signature does not fit its index"),
    (r"Release file .* is expired|is no longer valid", "its signed index has expired"),
    (r"is not valid yet", "its signed index is from the future: compare the host's clock"),
    (r"Hash Sum mismatch|unexpected size", "its list of packages is not what its index signs"),
    (r"certificate", "its TLS certificate is not trusted"),
    (r"Could not resolve|Temporary failure resolving", "its name cannot be resolved"),
    (r"407 +Proxy|from proxy|response 407", "the proxy refuses"),
    (r"Connection (refused|timed out|failed)|Could not connect|Failed to connect|timed out|No route"
     r"|unreachable", "it cannot be reached"),
    (r"does not have a Release file|40[34] |error: 40[34]", "there is nothing at this address"),
    (r"is not signed|NODATA", "its index is not signed"),
)  # fmt: skip
"""What apt and curl say, and what that means, the most telling first."""

STAGES = {
    "directory": "no temporary directory could be made",
    "apt": "the host has no apt-get",
    "key": "its key could not be fetched",
    "key-size": "what it serves as its key is too large for one",
    "update": "its list of packages could not be fetched",
    "curl": "the host has no curl",
    "own": "the host's own package sources could not be read",
}


class Asked(Protocol):
    """What asking needs of a connection."""

    host: str

    def run(self, command: str, *, stdin: str = "", timeout_s: float, limit: int) -> Result: ...


class NoAnswer(Exception):  # noqa: N818 - an answer, not a fault
    """This host could not say what the repository offers."""


def ask_in_turn(place: Place, hosts: Iterable[Asked]) -> Available | Unavailable:
    """The first answer of at most MOST_ASKED hosts; Unavailable with their reasons when none has
    one."""
    reasons: dict[str, list[str]] = {}
    for connection in islice(hosts, MOST_ASKED):
        try:
            return ask(place, connection)
        except NoAnswer as reason:
            reasons.setdefault(str(reason), []).append(connection.host)
    told = [f"{reason} (asked on {', '.join(names[:3])})" for reason, names in reasons.items()]
    return Unavailable("; ".join(told) or "no host could be asked")


def ask(place: Place, connection: Asked) -> Available:
    """What one host says. Raises NoAnswer with the reason for people."""
    result = connection.run("exec sh -s", stdin=script(place), timeout_s=TIMEOUT_S, limit=LIMIT)
    if result.trouble:
        raise NoAnswer(f"{place.url}: {result.trouble}")
    return read_answer(place, result.out)


def script(place: Place) -> str:
    """The whole script for one repository, every value quoted."""
    values = {
        "url": place.url,
        "key_url": place.key_url,
        "proxy": place.proxy,
        "ca_bundle": place.ca_bundle,
    }
    if place.packaging == "apt":
        values |= {"own": "yes" if place.own else "", "INTEREST": GPU_PACKAGES}
    head = "".join(f"{name}={shlex.quote(value)}\n" for name, value in values.items())
    question = "available.sh" if place.packaging == "apt" else "available_rpm.sh"
    texts = [(files("deploy") / name).read_text() for name in ("available_head.sh", question)]
    return head + "".join(texts)


def read_answer(place: Place, text: str) -> Available:
    """An answer of `available.sh`, which is hostile data: bounded, checked, never evaluated.

    Raises NoAnswer.
    """
    lines = text.splitlines()
    if FIRST not in lines or not lines or lines[-1].strip() != LAST:
        raise NoAnswer(f"{place.url}: the answer was cut off")
    body = lines[lines.index(FIRST) + 1 : -1]
    if body and body[0].startswith("failed "):
        raise NoAnswer(_explained(place, body[0].removeprefix("failed "), body[1:]))
    try:
        parts = _parts(body)
        key = one_key(parts["key"], place.key_fingerprint)
        found = _rpm_offers(place, parts, key) if place.packaging != "apt" else _deb_offers(parts)
    except WrongKey as error:
        raise NoAnswer(f"{place.key_url}: {error}") from None
    except BadIndex as error:
        raise NoAnswer(f"{place.url}: {error}") from None
    except KeyError:
        raise NoAnswer(f"{place.url}: the answer is not understood") from None
    except (binascii.Error, zlib.error, ValueError) as error:
        raise NoAnswer(f"{place.url}: the answer is damaged ({error})") from None
    if not any(offer.origin == "vendor" for offer in found):
        raise NoAnswer(f"{place.url}: its list of packages is empty")
    repository = Repository(
        kind=place.packaging, url=place.url, key_fingerprint=place.key_fingerprint, key=key
    )
    return Available(repository, found, place.packaging)


PARTS = ("key", "packages", "own", "repomd", "signature", "primary", "modules")


def _parts(body: list[str]) -> dict[str, bytes]:
    """Parts of an answer by name, each sent in base64. Raises ValueError, KeyError."""
    texts: dict[str, list[str]] = {}
    name = ""
    for line in body:
        tag, _, rest = line.partition(" ")
        if tag == "part":
            if rest in texts or rest not in PARTS:
                raise KeyError(rest)
            name = rest
            texts[name] = []
        else:
            texts[name].append(line)
    return {key: base64.b64decode("".join(text), validate=True) for key, text in texts.items()}


def _deb_offers(parts: dict[str, bytes]) -> list[Offer]:
    found = list(_offers(_unpack(parts["packages"]), "vendor"))
    if "own" in parts:
        found += _offers(_unpack(parts["own"]), "distribution")
    return found


def _rpm_offers(place: Place, parts: dict[str, bytes], key: str) -> list[Offer]:
    """The index must be signed by the key where it is signed at all: the vendor's own configuration
    of dnf asks for signed packages only, and every package is checked when it is installed."""
    index = parts["repomd"]
    if parts["signature"]:
        check_signature(index, parts["signature"], key)
    listed = digests(index)
    check_part(parts["primary"], "primary", listed)
    if parts["modules"] or "modules" in listed:
        check_part(parts["modules"], "modules", listed)
    return list(offers(parts["primary"], parts["modules"], place.machine))


def _unpack(packed: bytes) -> bytes:
    unpacker = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)
    index = unpacker.decompress(packed, UNPACKED)
    if not unpacker.eof:
        raise ValueError("more than anyone would list, or cut off")
    return index


_VERSION = re.compile(r"(\d+:)?\d[A-Za-z0-9.+~\-]*")
_NAME = re.compile(r"[a-z0-9][a-z0-9+.\-]+")
_RELATION = re.compile(r"[A-Za-z0-9 +.\-~:,|()<>=\[\]!*]*")


def _offers(index: bytes, origin: Origin) -> Iterator[Offer]:
    """Packages of an index whose every field is of Debian's grammar; others are left out, as apt
    itself could not install them under what we would write."""
    for stanza in Packages.iter_paragraphs(index.splitlines(keepends=True), use_apt_pkg=False):
        name, version = stanza.get("Package", ""), stanza.get("Version", "")
        size = stanza.get("Size", "0")
        fields = {
            "depends": _joined(stanza.get("Pre-Depends", ""), stanza.get("Depends", "")),
            "provides": stanza.get("Provides", ""),
            "conflicts": _joined(stanza.get("Conflicts", ""), stanza.get("Breaks", "")),
        }
        if (
            _NAME.fullmatch(name)
            and _VERSION.fullmatch(version)
            and re.fullmatch(r"\d{1,15}", size)
            and all(_RELATION.fullmatch(value) for value in fields.values())
        ):
            yield Offer(name=name, version=version, size=int(size), origin=origin, **fields)


def _joined(*fields: str) -> str:
    return ", ".join(" ".join(field.split()) for field in fields if field.strip())


def _explained(place: Place, stage: str, log: list[str]) -> str:
    text = "\n".join(log)
    cause = next((words for pattern, words in CAUSES if re.search(pattern, text, re.I | re.S)), "")
    what = STAGES.get(stage, "it could not be asked")
    details = [line.strip() for line in log if line.startswith("  ") and line.strip()]
    errors = [line.strip() for line in log if line.startswith(("E:", "curl:"))]
    last = (details or errors or [line.strip() for line in log if line.strip()] or [""])[0][:300]
    parts = [f"{place.key_url if stage.startswith('key') else place.url}: {what}"]
    parts += [cause] if cause else []
    parts += [f"{'apt' if place.packaging == 'apt' else 'curl'} says: {last}"] if last else []
    return printable(Redactor()("; ".join(parts)))
