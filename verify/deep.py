"""Level deep: started on every host, waited for or left alone, collected later.

What a host has to say comes from its own record (verify/detached.py), so that a controller that
was interrupted, or another one, can collect it. The run directory keeps in deep.json what is open.
"""

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import gevent
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from deploy.fleet.inventory import Fleet, Host
from deploy.fleet.model import Model
from deploy.fleet.names import fold
from deploy.fleet.reach import queue_s
from deploy.fleet.runs import controller, printable
from deploy.fleet.transport import Connection, Unreachable, connect, on_each
from verify import launch
from verify.answer import MOST_BYTES, BadAnswer, read
from verify.bundle import Bundle
from verify.checks import MARK
from verify.results import Name, Request, Text
from verify.runner import (
    CONNECT_S,
    LOGINS,
    MARGIN_S,
    PUSH_S,
    Answer,
    Question,
    Silence,
    request_for,
)

OPEN = "deep.json"
"""In a run directory: the hosts whose soak is to be collected."""
ASK_S = 90.0
"""For one start, poll or stop, login and bundle included."""
PATIENCE_S = 3600.0
"""How long a host that does not answer is asked again beyond the end that it had announced."""
MOST_LINE = 300
TOLD_S = 60.0
"""Between two lines for who waits."""
SOONEST_S = 2.0
"""Between two looks at a host whose end is near; otherwise `latest_s`."""

Words = Callable[[Connection], dict[str, Any]]
State = Literal["started", "refused", "running", "ended", "lost", "none", "failed"]


class Told(BaseModel):
    """What a host says of a run: hostile data."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    schema_: Literal[1] = Field(alias="schema")
    state: State
    why: Text = ""
    stage: Name = ""
    answer: str = Field(default="", max_length=MOST_BYTES)
    partial: tuple[Text, ...] = Field(default=(), max_length=64)
    left_s: float = Field(default=0.0, ge=0, le=30 * 86400)
    now: float = 0.0
    run: Name | None = None
    by: Name | None = None
    host: Name | None = None
    nonce: Name | None = None
    bundle: Name | None = None
    started: float | None = None
    minutes: int | None = None
    until: float | None = None
    boot_id: Name | None = None


class Waits(Model):
    """One host whose soak was started and not collected."""

    nonce: str
    prefix: str


class Open(Model):
    """deep.json: what is needed to collect a run, from this folder alone."""

    version: Literal[1] = 1
    run: str
    bundle: str
    asked: tuple[str, ...]
    known: tuple[str, ...]
    minutes: int
    hosts: dict[str, Waits]


@dataclass
class Attended:
    """The hosts of one run while this controller looks after them."""

    place: Path
    """The run directory."""
    bundle: Bundle
    """What is pushed to a host that lacks it: another controller may have another one."""
    open: Open
    said: dict[str, str] = field(default_factory=dict)
    """Host -> how far it is, for whoever waits."""

    def progress(self) -> str:
        """How far the open hosts are, in one line."""
        alike: dict[str, list[str]] = {}
        for name in self.open.hosts:
            alike.setdefault(self.said.get(name, "not heard of yet"), []).append(name)
        return "; ".join(f"{fold(names)}: {text}" for text, names in alike.items())[:MOST_LINE]

    def keep(self) -> None:
        """Write deep.json, or take it away when nothing is open."""
        path = self.place / OPEN
        if not self.open.hosts:
            path.unlink(missing_ok=True)
            return
        partial = path.with_suffix(".partial")
        partial.write_text(self.open.model_dump_json(indent=1) + "\n")
        partial.replace(path)

    def close(self, host: str) -> None:
        """This host is done."""
        left = {name: one for name, one in self.open.hosts.items() if name != host}
        self.open = self.open.model_copy(update={"hosts": left})
        self.keep()


def latest_s(hosts: int) -> float:
    """Seconds between two looks at a host: each is a login, so that many hosts are asked less."""
    return min(60.0, 10.0 + hosts / 20)


def read_open(place: Path) -> Open | None:
    """What is open in a run directory; None when nothing is, or it cannot be used."""
    try:
        return Open.model_validate_json((place / OPEN).read_bytes())
    except (OSError, ValueError):
        return None


def begin(fleet: Fleet, question: Question, place: Path) -> tuple[list[Answer], Attended]:
    """Start level deep on every host: the answers of those where it did not start, and what is to
    be attended."""
    silent: list[Answer] = []
    run = place.name
    attended = Attended(
        place,
        question.bundle,
        Open(
            run=run,
            bundle=question.bundle.id,
            asked=tuple(sorted(question.asked)),
            known=tuple(sorted(question.known)),
            minutes=question.minutes,
            hosts={},
        ),
    )
    hosts = dict(attended.open.hosts)

    def work(host: Host) -> tuple[Told | Answer, Request]:
        nonce = launch.new_nonce()
        with_user: list[Request] = []

        def words(connection: Connection) -> dict[str, Any]:
            with_user[:] = [request_for(host, connection.user, question, nonce)]
            return _words(run, json.loads(with_user[0].model_dump_json(by_alias=True)))

        told = converse(host, question.bundle, "start", words)
        return told, with_user[0] if with_user else request_for(host, "", question, nonce)

    for name, result in _each(fleet, work):
        if isinstance(result, Exception):
            silent.append(Answer(name, message=f"{name}: {printable(str(result))[:200]}"))
            continue
        told, request = result
        if isinstance(told, Answer):
            silent.append(told)
        elif told.state in ("started", "running", "ended"):
            hosts[name] = Waits(nonce=request.nonce, prefix=request.prefix)
            attended.open = attended.open.model_copy(update={"hosts": dict(hosts)})
            attended.keep()
            attended.said[name] = running(told)
        else:
            silent.append(Answer(name, message=_refused(name, told, fleet)))
    return silent, attended


def _words(run: str, request: dict[str, Any]) -> dict[str, Any]:
    return {"schema": 1, "run": run, "by": controller(), "request": request}


def _each(fleet: Fleet, work: Any) -> Iterator[tuple[str, Any]]:
    hosts = fleet.hosts.values()
    limit = ASK_S + PUSH_S + queue_s(hosts, CONNECT_S)
    yield from on_each(hosts, work, deadline_s=limit, at_once=min(LOGINS, max(1, len(fleet.hosts))))


def attend(
    fleet: Fleet,
    attended: Attended,
    *,
    wait: bool,
    stop: bool = False,
    tell: Callable[[str], None] = lambda line: None,
) -> Iterator[Answer]:
    """The answers of the hosts that are open, as they end; without `wait` one look at each, and of
    those that still run an answer that says so. `tell` gets a line now and then."""
    action: launch.Action = "stop" if stop else "poll"
    waiting = {name: 0.0 for name in attended.open.hosts if name in fleet.hosts}
    for name in attended.open.hosts.keys() - fleet.hosts.keys():
        why = f"{name}: is no longer in the inventory: its soak cannot be collected"
        yield Answer(name, message=why)
    over = time.time() + attended.open.minutes * 60 + PATIENCE_S
    told_at = 0.0
    while waiting:
        due = [name for name, at in waiting.items() if at <= time.time()]
        part = Fleet(fleet.name, fleet.path, {name: fleet.hosts[name] for name in due})
        for name, answer, again in _look(part, attended, action):
            late = time.time() > over
            if again and wait and not late:
                waiting[name] = time.time() + again
                continue
            if not again:
                attended.close(name)
            del waiting[name]
            yield answer
        action = "poll"
        if waiting and time.time() - told_at > TOLD_S:
            tell(f"level deep: {attended.progress()}")
            told_at = time.time()
        if waiting:
            gevent.sleep(max(0.2, min(waiting.values()) - time.time()))


def _look(
    fleet: Fleet, attended: Attended, action: launch.Action
) -> Iterator[tuple[str, Answer, float]]:
    """Host, its answer, and after how many seconds to look again; 0 for never."""
    run, waits = attended.open.run, attended.open.hosts

    def work(host: Host) -> Told | Answer:
        request = {"prefix": waits[host.name].prefix}
        return converse(host, attended.bundle, action, lambda _: _words(run, request))

    for name, told in _each(fleet, work):
        if isinstance(told, Told):
            again = 0.0
            if told.state in ("running", "started"):
                again = min(latest_s(len(waits)), max(SOONEST_S, told.left_s / 4))
                attended.said[name] = running(told)
            yield name, _answer(name, told, attended), again
        else:
            # Not reached, or not understood: the soak goes on, so it is asked again.
            known = isinstance(told, Answer)
            answer = told if known else Answer(name, message=f"{name}: {printable(str(told))}")
            attended.said[name] = answer.silence
            note = f"its soak goes on: gpufleet status {attended.place.name} asks again"
            yield name, Answer(name, silence=answer.silence, message=answer.message,
                               notes=(*answer.notes, note)), latest_s(len(waits))  # fmt: skip


def newest(fleet: Fleet, bundle: Bundle) -> Iterator[tuple[str, Told | Answer]]:
    """What every host says of its newest run of level deep, whoever has started it."""

    def work(host: Host) -> Told | Answer:
        request = {"prefix": host.spec.prefix}
        return converse(host, bundle, "poll", lambda _: _words("", request))

    for name, told in _each(fleet, work):
        known = isinstance(told, Told | Answer)
        yield name, told if known else Answer(name, message=f"{name}: {printable(str(told))}")


def running(told: Told) -> str:
    """How far a run is."""
    left = f"{told.left_s / 60:.0f} min left" if told.left_s > 0 else "about to end"
    return f"{told.stage or 'starting'}, {left}"


def _refused(name: str, told: Told, fleet: Fleet) -> str:
    if told.state != "refused":
        return f"{name}: level deep did not start: {told.why or told.state}"
    since = time.strftime("%H:%M UTC", time.gmtime(told.started or 0))
    return (
        f"{name}: a soak of {told.by} (run {told.run}, since {since}) runs there, {running(told)}: "
        f"gpufleet status {told.run} collects it there, "
        f"gpufleet status --inventory {fleet.path} --limit {name} here; --stop ends it"
    )


def _answer(name: str, told: Told, attended: Attended) -> Answer:
    """What a host came to, or how far it is."""
    run, notes = attended.place.name, told.partial
    if told.state in ("running", "started"):
        text = f"{name}: level deep runs there ({running(told)}): gpufleet status {run} collects it"
        return Answer(name, message=text)
    if told.state == "lost":
        why = f"{name}: its soak was lost: {told.why}; run it again, and find out why it went down"
        return Answer(name, silence="hung", message=why, notes=notes)
    if told.state != "ended" or not told.answer:
        why = told.why or "it knows nothing of this run"
        hung = "did not end in time" in why
        return Answer(
            name, silence="hung" if hung else "not-run", message=f"{name}: {why}", notes=notes
        )
    request = Request(
        nonce=attended.open.hosts[name].nonce, host=name, level="deep", checks=(), expected=None,
        prefix="", train_as="", accept_hardware=False,
    )  # fmt: skip
    try:
        result = read(
            told.answer,
            request,
            attended.open.bundle,
            asked=set(attended.open.asked),
            known=set(attended.open.known),
        )
    except BadAnswer as bad:
        return Answer(name, message=f"{name}: its answer cannot be used: {bad}", notes=notes)
    return Answer(name, result=result)


# ---- one host, one question


def converse(host: Host, bundle: Bundle, action: launch.Action, words: Words) -> Told | Answer:
    """Start, poll or stop on one host."""
    out = output(host, bundle, action, words)
    if isinstance(out, Answer):
        return out
    lines = [one for one in out.splitlines() if one.startswith(MARK)]
    try:
        return Told.model_validate_json(lines[-1][len(MARK) :] if lines else "")
    except ValidationError:
        return Answer(host.name, message=f"{host.name}: it gave no answer that can be used")


def output(
    host: Host,
    bundle: Bundle,
    action: launch.Action,
    words: Words,
    *,
    whole_s: float = ASK_S,
    limit: int = MOST_BYTES,
) -> str | Answer:
    """What a program of the bundle prints on one host, or why it does not run; `words` makes its
    request once it is known who logged in. The bundle is pushed where it is missing."""
    try:
        connection = connect(host, CONNECT_S)
    except Unreachable as error:
        return Answer(host.name, silence="unreachable", message=printable(str(error)))
    try:
        asked = json.dumps(words(connection))
        for pushed in (False, True):
            nonce = launch.new_nonce()
            ran = connection.run_script(
                _script(host, bundle, action, nonce, int(whole_s), asked),
                timeout_s=whole_s + MARGIN_S,
                limit=limit,
                root=host.spec.privileged,
            )
            line = launch.said(ran.out, nonce)
            if line is None or line.word != launch.MISSING or pushed:
                break
            root = line.uid == 0 and host.spec.privileged
            script = _script(host, bundle, "push", launch.new_nonce())
            put = connection.run(script, stdin=bundle.text, timeout_s=PUSH_S, root=root)
            if not put.ok:
                break
        if line is None and not ran.trouble:
            return ran.out
        silence: Silence = "hung" if ran.trouble.startswith("no end within") else "not-run"
        text = f"{line.word}: {line.text}" if line is not None else ran.trouble
        return Answer(host.name, silence=silence, message=f"{host.name}: {printable(text)[:400]}")
    finally:
        connection.close()


def _script(
    host: Host, bundle: Bundle, action: launch.Action, nonce: str, limit: int = 0, asked: str = ""
) -> str:
    return launch.script(
        action,
        id=bundle.id,
        prefix=host.spec.prefix,
        privileged=host.spec.privileged,
        nonce=nonce,
        limit_s=limit,
        request=asked,
    )
