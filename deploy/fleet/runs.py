"""The run directory: what one command did, readable while it runs and after it was killed.

runs/<UTC time>/run.json        what was asked, by whom, how it ended (`RunFile`)
runs/<UTC time>/journal.jsonl   events, one JSON object a line, flushed as they happen
runs/<UTC time>/hosts/<name>.json   the result of one host; every host of the run has one
runs/<UTC time>/logs/<name>.log     raw output of the commands that ran on a host
"""

import getpass
import json
import os
import re
import socket
from collections import deque
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import quote

from deploy.fleet.errors import Fault, WrongInput
from deploy.fleet.model import Model
from deploy.fleet.redact import Redactor, secrets_of

if TYPE_CHECKING:
    from deploy.fleet.inventory import Fleet

RUNS = Path("runs")
"""Where run directories are made: below the folder that the command runs in."""
VERSION = 1
"""Schema of run.json, of the journal's events and of the files in hosts/."""
LOG_LIMIT = 16 * 1024 * 1024
"""Bytes of raw output kept per host from the start of its log."""
LOG_TAIL = 400
"""Lines kept from the end of a log that went over the limit."""

_CONTROL = re.compile(
    r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b\].*?(?:\x07|\x1b\\)|[^\t\x20-\x7e\xa0-\uffff]"
    # What reorders or hides the text around it, and half characters that no output can encode.
    r"|[\xad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ud800-\udfff\ufeff\ufff9-\ufffb\ufffe\uffff]"
)


def printable(text: str) -> str:
    """Output of a host without anything that a terminal or a browser would obey."""
    return _CONTROL.sub("", text)


def now() -> str:
    """UTC to the millisecond, as 2026-01-31T12:00:00.123Z."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def controller() -> str:
    """Who runs this, as user@machine."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a user id without a name, as in minimal containers
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}"


class RunFile(Model):
    """run.json."""

    version: int
    id: str
    command: tuple[str, ...]
    controller: str
    pid: int
    started: str
    ended: str
    """"" while it runs, and for ever when the controller was killed."""
    state: Literal["running", "finished", "interrupted"]
    exit: int | None
    inventory: str
    lock: str
    """Digest of the lock that the run worked from, "" when it used none."""
    hosts: dict[str, str]
    """Every host of the run -> its status, "pending" until there is one."""


class RawLog:
    """One host's raw output: appended line by line, redacted, bounded in size."""

    def __init__(self, path: Path, redact: Redactor) -> None:
        self.path = path
        self._redact = redact
        self._left = LOG_LIMIT
        self._dropped = 0
        self._tail: deque[str] = deque(maxlen=LOG_TAIL)
        self._file = path.open("a", encoding="utf-8")

    def line(self, text: str) -> None:
        text = printable(self._redact(text)) + "\n"
        if self._left >= len(text):
            self._left -= len(text)
            self._file.write(text)
            self._file.flush()
            return
        self._left = 0
        self._dropped += 1
        self._tail.append(text)

    def close(self) -> None:
        if self._file.closed:
            return
        if self._dropped:
            cut = self._dropped - len(self._tail)
            if cut:
                self._file.write(f"[gpufleet: {cut} lines left out here]\n")
            self._file.writelines(self._tail)
        self._file.close()


class Run:
    """One command's run directory."""

    def __init__(
        self,
        root: Path,
        command: Iterable[str],
        *,
        inventory: str,
        hosts: Iterable[str],
        redact: Redactor | None = None,
    ) -> None:
        """Make the directory below `root` and write run.json at once.

        Raises OSError when `root` cannot be written.
        """
        self.redact = redact or Redactor()
        self.directory = _own_directory(root)
        self.id = self.directory.name
        (self.directory / "hosts").mkdir()
        (self.directory / "logs").mkdir()
        self._logs: dict[str, RawLog] = {}
        self._journal = (self.directory / "journal.jsonl").open("a", encoding="utf-8")
        self.statuses = dict.fromkeys(hosts, "pending")
        self._file = RunFile(
            version=VERSION,
            id=self.id,
            command=tuple(self.redact(part) for part in command),
            controller=controller(),
            pid=os.getpid(),
            started=now(),
            ended="",
            state="running",
            exit=None,
            inventory=inventory,
            lock="",
            hosts={},
        )
        self._write()
        self.event("run-started", command=self._file.command)

    @classmethod
    def again(cls, directory: Path, redact: Redactor) -> "Run":
        """A run that goes on in its directory. Raises OSError or ValueError when it is none."""
        found = read_run(directory)
        self = cls.__new__(cls)
        self.redact, self.directory, self.id = redact, directory, directory.name
        self._logs = {}
        self._journal = (directory / "journal.jsonl").open("a", encoding="utf-8")
        self.statuses = dict(found.hosts)
        self._file = found
        self._write(controller=controller(), pid=os.getpid(), state="running", ended="", exit=None)
        self.event("run-resumed")
        return self

    def event(self, event: str, host: str = "", **data: Any) -> None:
        """Add one line to the journal and flush it."""
        entry: dict[str, Any] = {"time": now(), "event": event}
        if host:
            entry["host"] = host
        self._journal.write(json.dumps(self.redact.within(entry | data)) + "\n")
        self._journal.flush()

    def log(self, host: str) -> RawLog:
        """The raw log of a host, opened on first use."""
        if host not in self._logs:
            path = self.directory / "logs" / f"{file_name(host)}.log"
            self._logs[host] = RawLog(path, self.redact)
        return self._logs[host]

    def result(self, host: str, status: str, **data: Any) -> None:
        """Record how a host ended: its file, one event, and its place in run.json."""
        self._host(host, status, data)
        self.event("host-ended", host, status=status, message=data.get("message", ""))
        if host in self._logs:
            self._logs.pop(host).close()

    def revise(self, host: str, status: str, **data: Any) -> None:
        """Replace what was recorded of a host, once it is known what all hosts came to."""
        self._host(host, status, data)
        self.event("host-judged", host, status=status, message=data.get("message", ""))

    def _host(self, host: str, status: str, data: dict[str, Any]) -> None:
        document = {"version": VERSION, "host": host, "status": status, **data}
        text = json.dumps(self.redact.within(document), indent=1)
        _replace(self.directory / "hosts" / f"{file_name(host)}.json", text + "\n")
        self.statuses[host] = status

    def locked_to(self, digest: str) -> None:
        """Name the lock that the run works from, once it is known."""
        self._write(lock=digest)

    def end(self, exit_code: int | None, state: Literal["finished", "interrupted"]) -> None:
        """Close everything; hosts without a result stay `pending` and are said to be so."""
        if self._journal.closed:
            return
        for log in self._logs.values():
            log.close()
        self._write(ended=now(), state=state, exit=exit_code)
        self.event("run-ended", exit=exit_code, state=state)
        self._journal.close()

    def _write(self, **changed: Any) -> None:
        self._file = self._file.model_copy(update={**changed, "hosts": dict(self.statuses)})
        _replace(self.directory / "run.json", self._file.model_dump_json(indent=1) + "\n")


def begin(command: str, words: list[str], fleet: "Fleet", wave: "Fleet") -> Run:
    """The run directory of `gpufleet command words` over the hosts of `wave`; every secret of the
    fleet is kept out of it. Raises WrongInput when it cannot be made."""
    redact = redactor(fleet)
    try:
        return Run(
            RUNS,
            ["gpufleet", command, *words],
            inventory=str(fleet.path),
            hosts=wave.hosts,
            redact=redact,
        )
    except OSError as error:
        why = f"cannot be written ({error.strerror}): run gpufleet in a folder of yours"
        raise WrongInput([Fault(str(RUNS.absolute()), "", why)]) from None


def redactor(fleet: "Fleet") -> Redactor:
    """Of every secret in an inventory."""
    return Redactor(secret for host in fleet.hosts.values() for secret in secrets_of(host.data))


def again(directory: Path, fleet: "Fleet") -> Run:
    """The run in a directory, to go on with. Raises WrongInput when it cannot be written."""
    try:
        return Run.again(directory, redactor(fleet))
    except OSError as error:
        why = f"cannot be written ({error.strerror}): it is of another user, or the disk is full"
        raise WrongInput([Fault(str(directory), "", why)]) from None


def read_run(directory: Path) -> RunFile:
    """run.json of one directory. Raises OSError or ValueError when it is missing or not ours."""
    return RunFile.model_validate_json((directory / "run.json").read_bytes())


def file_name(host: str) -> str:
    """A host's name as a file name: `@docker/box` must not leave the directory."""
    return quote(host, safe="@:+,=").replace("..", "%2E%2E")


def _own_directory(root: Path) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    stem = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
    for number in range(1, 1000):
        path = root / (stem if number == 1 else f"{stem}-{number}")
        try:
            path.mkdir()
        except FileExistsError:
            continue
        return path
    raise FileExistsError(f"{root}: a thousand runs within one second")


def _replace(path: Path, text: str) -> None:
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)
