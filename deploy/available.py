"""What the vendor's repository offers, asked through one host without changing it.

A host runs `available.sh` (a private apt state in a temporary directory, no root) and answers with
the repository's key and its list of packages. Whether the key is the right one is decided here: its
fingerprint must be the catalogue's or the inventory's, and nothing else may be in the file.
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
from deploy.keys import WrongKey, one_key
from deploy.solve import Place
from deploy.solving.offers import Available, Offer, Unavailable
from deploy.stack import Repository

TIMEOUT_S = 180
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
    (r"407 +Proxy|from proxy", "the proxy refuses"),
    (r"Connection (refused|timed out|failed)|Could not connect|timed out|No route|unreachable",
     "it cannot be reached"),
    (r"does not have a Release file|40[34] ", "there is nothing at this address"),
    (r"is not signed|NODATA", "its index is not signed"),
)  # fmt: skip
"""What apt says, and what that means, the most telling first."""

STAGES = {
    "directory": "no temporary directory could be made",
    "apt": "the host has no apt-get",
    "key": "its key could not be fetched",
    "key-size": "what it serves as its key is too large for one",
    "update": "its list of packages could not be fetched",
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
    head = "".join(f"{name}={shlex.quote(value)}\n" for name, value in values.items())
    return head + (files("deploy") / "available.sh").read_text()


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
    if not body or body[0] != "key" or "packages" not in body:
        raise NoAnswer(f"{place.url}: the answer is not understood")
    middle = body.index("packages")
    try:
        key = base64.b64decode("".join(body[1:middle]), validate=True)
        packed = base64.b64decode("".join(body[middle + 1 :]), validate=True)
        index = _unpack(packed)
    except (binascii.Error, zlib.error, ValueError) as error:
        raise NoAnswer(f"{place.url}: the answer is damaged ({error})") from None
    try:
        armoured = one_key(key, place.key_fingerprint)
    except WrongKey as error:
        raise NoAnswer(f"{place.key_url}: {error}") from None
    found = list(_offers(index))
    if not found:
        raise NoAnswer(f"{place.url}: its list of packages is empty")
    repository = Repository(
        kind="apt", url=place.url, key_fingerprint=place.key_fingerprint, key=armoured
    )
    return Available(repository, found)


def _unpack(packed: bytes) -> bytes:
    unpacker = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)
    index = unpacker.decompress(packed, UNPACKED)
    if not unpacker.eof:
        raise ValueError("more than anyone would list, or cut off")
    return index


_VERSION = re.compile(r"(\d+:)?\d[A-Za-z0-9.+~\-]*")
_NAME = re.compile(r"[a-z0-9][a-z0-9+.\-]+")
_RELATION = re.compile(r"[A-Za-z0-9 +.\-~:,|()<>=\[\]!*]*")


def _offers(index: bytes) -> Iterator[Offer]:
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
            yield Offer(name=name, version=version, size=int(size), **fields)


def _joined(*fields: str) -> str:
    return ", ".join(" ".join(field.split()) for field in fields if field.strip())


def _explained(place: Place, stage: str, log: list[str]) -> str:
    text = "\n".join(log)
    cause = next((words for pattern, words in CAUSES if re.search(pattern, text, re.I | re.S)), "")
    what = STAGES.get(stage, "it could not be asked")
    details = [line.strip() for line in log if line.startswith("  ") and line.strip()]
    errors = [line.strip() for line in log if line.startswith("E:")]
    last = (details or errors or [line.strip() for line in log if line.strip()] or [""])[0][:300]
    parts = [f"{place.key_url if stage.startswith('key') else place.url}: {what}"]
    parts += [cause] if cause else []
    parts += [f"apt says: {last}"] if last else []
    return printable(Redactor()("; ".join(parts)))
