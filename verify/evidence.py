"""What evidence becomes: read as hostile data, redacted, with a manifest in one archive. Pure.

An RMA carries serials, versions, logs and findings. It must not carry what is nobody's business:
secrets and keys, environment variables, e-mail and network addresses, users and their commands.
"""

import base64
import csv
import gzip
import hashlib
import io
import json
import re
import tarfile
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from deploy.fleet.redact import MARK as REDACTED
from deploy.fleet.runs import printable
from verify.checks import MARK
from verify.payload.evidence import COMMANDS
from verify.results import HostVerification

MOST_PACKED = 24_000_000
MOST_UNPACKED = 40_000_000
FILES = frozenset(
    {*COMMANDS, "kernel.txt", "kernel-window.txt", "nvidia-bug-report.log", "dmi.txt"}
    | {"versions.txt"}
)
"""What a host may send; the names in the archive are ours alone."""


class BadEvidence(Exception):  # noqa: N818 - reads as what it is at every raise
    """The host's answer cannot be used; the text says why."""


class Source(BaseModel):
    """One source as a host tells it."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    file: str = Field(max_length=80)
    command: str = Field(max_length=400)
    exit: int | None
    seconds: Annotated[float, Field(ge=0)]
    hung: bool
    truncated: bool
    missing: str = Field(max_length=400)
    text: str = Field(max_length=9_000_000)


class _Sources(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    sources: Annotated[tuple[Source, ...], Field(max_length=40)]


class _Line(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_: Literal[1] = Field(alias="schema")
    packed: str = Field(max_length=MOST_PACKED)


def read(output: str) -> list[Source]:
    """The sources in what a host printed. Raises BadEvidence."""
    lines = [line for line in output.splitlines() if line.startswith(MARK)]
    if len(lines) != 1:
        raise BadEvidence(f"it gave {len(lines)} answers, wanted one")
    try:
        line = _Line.model_validate_json(lines[0][len(MARK) :])
        unpacker = zlib.decompressobj(31)
        text = unpacker.decompress(base64.b64decode(line.packed, validate=True), MOST_UNPACKED)
        if unpacker.unconsumed_tail or not unpacker.eof:
            raise BadEvidence("its answer is truncated, or unpacks to more than any evidence has")
        found = _Sources.model_validate_json(text).sources
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        raise BadEvidence(f"its answer cannot be used: {printable(first['msg'])[:120]}") from None
    except (ValueError, zlib.error) as error:
        raise BadEvidence(f"its answer cannot be unpacked: {printable(str(error))[:80]}") from None
    strange = {one.file for one in found} - FILES
    if strange or len({one.file for one in found}) < len(found):
        raise BadEvidence("it sends files that nobody asked for, or one twice")
    return list(found)


# ---- redaction

_SECRET = (
    r"(?:pass(?:word|wd|phrase)?|secret|token|credential|cookie|api[_-]?key|access[_-]?key|"
    r"private[_-]?key)"
)
_RULES: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"-----BEGIN [A-Z0-9 ]+-----.*?(?:-----END [A-Z0-9 ]+-----|\Z)", re.S), REDACTED),
    (re.compile(r"\b(?:ssh-(?:rsa|ed25519|dss)|ecdsa-sha2-\S+)\s+AAAA\S+(?:[ \t]+\S+)?"), REDACTED),
    # A variable of an environment: its name stays, so that it can be asked about.
    (
        re.compile(
            r"^(\s*(?:export\s+)?(?!(?:CUDA|NCCL|NVIDIA|LC|PCI)_|LANG=|DRIVER=|ID=|NAME=|VERSION)"
            r"[A-Z][A-Z0-9_]{2,}=)\S.*$",
            re.M,
        ),
        rf"\1{REDACTED}",
    ),
    (
        re.compile(rf"([\w.-]*{_SECRET}[\w.-]*['\"]?\s*[=:]\s*['\"]?)[^\s'\",;&]+", re.I),
        rf"\1{REDACTED}",
    ),
    (re.compile(rf"(--?[\w-]*{_SECRET}[\w-]*\s+)\S+", re.I), rf"\1{REDACTED}"),
    (re.compile(r"\b(Bearer|Basic)\s+[\w.~+/=-]{8,}", re.I), rf"\1 {REDACTED}"),
    (
        re.compile(r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b|\b(?:gh[pousr]|hf|sk|glpat|xox[bp])[-_]\w{16,}"),
        REDACTED,
    ),
    (re.compile(r"\beyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]*"), REDACTED),
    (re.compile(r"[\w.+-]+@[\w-]+(?:\.[\w-]+)+"), "[e-mail]"),
    (re.compile(r"(/(?:home|Users)/)[^/\s:'\"]+"), r"\1[user]"),
    (re.compile(r"(?<![\w:])(?:[0-9a-f]{2}:){5}[0-9a-f]{2}(?![\w:])", re.I), "[mac]"),
    # ps: the user and what follows the program's name; nvidia-smi -q: names of processes.
    (
        re.compile(
            r"^\S+(\s+\d+\s+(?:\d+\.\d\s+\d+\.\d\s.*?\d+:\d\d|"
            r"\d+\s+\d+\s+\S+\s+\S+\s+\d+:\d\d:\d\d)\s+)(\S+)[ \t]+\S.*$",
            re.M,
        ),
        r"[user]\1\2 [arguments]",
    ),
    (
        re.compile(r"^(\s+(?:Process )?Name\s+: )(?!NVIDIA|Tesla|GeForce|Quadro).+$", re.M),
        r"\1[process]",
    ),
    (
        re.compile(r"^(\s*(?:cmdline|command line|argv|COMMAND)\s*[:=]).*$", re.M | re.I),
        r"\1 [command]",
    ),
)
_ADDRESS = re.compile(
    r"(?<![\w.:-])(?:\d{1,3}(?:\.\d{1,3}){3}|(?:[0-9a-f]{0,4}:){3,7}[0-9a-f]{0,4})(?![\w.:-])", re.I
)


def clean(text: str, secrets: Callable[[str], str], *, addresses: bool = True) -> str:
    """Text without what an archive must not carry. `secrets` knows those of the inventory;
    `addresses` also takes network addresses away, which versions of four parts look like."""
    text = secrets(text)
    for pattern, instead in _RULES:
        text = pattern.sub(instead, text)
    return _ADDRESS.sub(_without_address, text) if addresses else text


def _without_address(found: re.Match[str]) -> str:
    try:
        ip_address(found[0])
    except ValueError:  # a time, a PCI address, a version
        return found[0]
    return "[address]"


def findings_of(one: HostVerification) -> dict[str, Any]:
    """What a run knows of a host, without who used it and without what only transport needs."""
    document = one.model_dump(mode="json", by_alias=True)
    if document["result"] is not None:
        document["result"] |= {"busy": [], "nonce": ""}
    return document


# ---- the archive


@dataclass(frozen=True)
class Piece:
    """One file of the archive, and where it came from."""

    file: str
    text: str
    command: str
    exit: int | None = None
    seconds: float = 0.0
    hung: bool = False
    truncated: bool = False
    missing: str = ""


def pieces(sources: Iterable[Source], secrets: Callable[[str], str]) -> list[Piece]:
    """What a host sent, redacted, and the lines of the driver in its log besides."""
    found = []
    for one in sources:
        text = clean(printable_lines(one.text), secrets, addresses=one.file != "versions.txt")
        command = clean(printable(one.command), secrets)
        missing = printable(one.missing)
        found.append(Piece(one.file, text, command, one.exit, one.seconds, one.hung,
                           one.truncated, missing))  # fmt: skip
    log = "\n".join(piece.text for piece in found if piece.file.startswith("kernel"))
    lines = dict.fromkeys(line for line in log.splitlines() if re.search(r"NVRM|SXid|Xid", line))
    missing = "" if lines else "the log has no line of the driver"
    text = "".join(f"{line}\n" for line in lines)
    return [*found, Piece("xid.txt", text, "NVRM and SXid in kernel*.txt", 0, missing=missing)]


def printable_lines(text: str) -> str:
    """Text of a host that no terminal obeys; its lines stay."""
    return "\n".join(printable(line) for line in text.splitlines()) + "\n" * bool(text)


def archive(top: str, about: dict[str, Any], files: list[Piece]) -> bytes:
    """A tar.gz of everything below the folder `top`, with manifest.json first."""
    rows = []
    for one in files:
        data = one.text.encode("utf-8", "replace")
        rows.append({
            "file": one.file if data else None, "source": one.command, "bytes": len(data),
            "sha256": hashlib.sha256(data).hexdigest() if data else None, "exit": one.exit,
            "seconds": round(one.seconds, 3), "hung": one.hung, "truncated": one.truncated,
            "missing": one.missing or None,
        })  # fmt: skip
    manifest = json.dumps({"version": 1, **about, "files": rows}, indent=1) + "\n"
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, text in [("manifest.json", manifest), *((one.file, one.text) for one in files)]:
            data = text.encode("utf-8", "replace")
            if data:
                entry = tarfile.TarInfo(f"{top}/{name}")
                entry.size, entry.mode = len(data), 0o644
                tar.addfile(entry, io.BytesIO(data))
    return gzip.compress(packed.getvalue(), 6, mtime=0)


# ---- the inventory of serials

BOARD = ("vbios", "gsp", "inforom_image", "inforom_ecc", "board_part", "board_serial",
         "chassis_serial")  # fmt: skip
COLUMNS = ("host", "gpu", "name", "serial", "uuid", "slot", *BOARD, "driver", "stack", "verdict",
           "run", "seen")  # fmt: skip


def rows(hosts: Iterable[tuple[str, HostVerification | None, str]]) -> list[dict[str, str]]:
    """One row per GPU of every host: its name, what the newest run knows of it, the run's id. A
    host without GPUs, or of which nothing is known, has one row that says so."""
    found = []
    for host, one, run in hosts:
        result = one.result if one is not None else None
        if result is None or not result.gpus:
            why = "no run has it" if one is None else f"no GPU is known ({one.verdict})"
            found.append({"host": host, "verdict": why, "run": run})
            continue
        for gpu in result.gpus:
            row = {"host": host, "gpu": str(gpu.index), "name": gpu.name, "serial": gpu.serial}
            row |= {"uuid": gpu.uuid, "slot": gpu.slot}
            row |= {name: gpu.board.get(name, "") for name in BOARD}
            row |= {"driver": result.software.get("driver", ""), "stack": result.stack}
            row |= {"verdict": one.verdict if one else "", "run": run, "seen": result.started}
            found.append(row)
    return found


def table(found: list[dict[str, str]]) -> str:
    """CSV in which no cell is a formula to a spreadsheet."""
    out = io.StringIO()
    writer = csv.DictWriter(out, COLUMNS, restval="", lineterminator="\n")
    writer.writeheader()
    for row in found:
        writer.writerow({key: _cell(printable(text)) for key, text in row.items()})
    return out.getvalue()


def _cell(text: str) -> str:
    """A leading = + - @ makes a formula of a cell, also behind blanks (OWASP, CSV Injection)."""
    return f"'{text}" if text.lstrip()[:1] in ("=", "+", "-", "@") and text.strip() else text
