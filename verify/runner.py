"""Asks every host at once: one connection, one command and one deadline each."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Literal

from gevent.lock import BoundedSemaphore

from deploy.fleet.become import REFUSALS
from deploy.fleet.conversation import Result
from deploy.fleet.inventory import Fleet, Host
from deploy.fleet.reach import queue_s
from deploy.fleet.runs import printable
from deploy.fleet.transport import Connection, Unreachable, connect, on_each
from verify import launch
from verify.answer import MOST_BYTES, BadAnswer, read
from verify.bundle import Bundle
from verify.launch import Said, said, script
from verify.results import HostResult, Level, Request

CONNECT_S = 10.0
ASK_S: dict[str, float] = {
    **{"quick": 30.0, "standard": 420.0, "deep": 60.0, "workload": 2160.0},
    "multi-node": 240.0,
}
"""Seconds that a host may take in all, login included."""
MARGIN_S = 3
"""The host ends the checks by itself this long before its deadline, so that it can say so."""
PUSH_S = 60.0
"""Seconds for the bundle's way to a host that lacks it, beside those of the question."""
LOGINS = 256
"""At once. More would let this machine's own work eat their ten seconds."""
PUSHES = 64
"""At once: each holds the archive in memory."""
KILLED = ("124", "137")
"""What `timeout` ends with when it had to stop the command."""
MOST_SAID = 200

Silence = Literal["unreachable", "not-run", "hung", "pass"]


@dataclass(frozen=True)
class Question:
    """What every host is asked."""

    level: Level
    checks: tuple[str, ...]
    """Those asked by name; () for all of the level."""
    asked: frozenset[str]
    """Ids of all checks that are meant."""
    known: frozenset[str]
    """Ids of all checks of this installation."""
    expected: Mapping[str, dict[str, object] | None]
    accept_hardware: bool
    bundle: Bundle
    env: str = ""
    train_as: str = ""
    """User that training runs as; "" leaves the choice to each host."""
    via: Literal["", "slurm"] = ""
    minutes: int = 0
    detach: bool = False
    """Level deep: do not wait for its end."""
    rendezvous: Mapping[str, dict[str, str | int | bool]] = field(default_factory=dict)
    """Host -> where and with how many it trains across hosts."""


@dataclass(frozen=True)
class Answer:
    """What came of it: a result, or the reason why there is none."""

    host: str
    result: HostResult | None = None
    silence: Silence = "not-run"
    """What it is called when there is no result; pass when nothing but an answer was asked for."""
    message: str = ""
    """Why there is no result."""
    notes: tuple[str, ...] = ()


@dataclass
class _Gates:
    """Bounds on what many hosts may do at the same time."""

    logins: AbstractContextManager[Any]
    pushes: AbstractContextManager[Any]


def ask_all(fleet: Fleet, question: Question) -> Iterator[Answer]:
    """Every host's answer, in the order in which they come. Never raises for what a host does."""
    gates = _Gates(BoundedSemaphore(LOGINS), BoundedSemaphore(PUSHES))
    count = len(fleet.hosts)
    # A backstop only: every stage has a deadline of its own, and waits for its turn before it.
    deadline = (
        ASK_S[question.level]
        + CONNECT_S * (2 + count / LOGINS)
        + PUSH_S * (1 + count / PUSHES)
        + queue_s(fleet.hosts.values(), CONNECT_S)
    )
    work: Callable[[Host], Answer] = lambda host: ask(host, question, gates)  # noqa: E731
    for name, result in on_each(
        fleet.hosts.values(), work, deadline_s=deadline, at_once=max(1, count)
    ):
        if isinstance(result, Answer):
            yield result
        elif isinstance(result, TimeoutError):
            yield Answer(name, silence="hung", message=str(result))
        else:
            why = printable(f"{type(result).__name__}: {result}")[:MOST_SAID]
            message = f"{name}: {why}; this is a fault of gpufleet: please report it"
            yield Answer(name, message=message)


def ask(host: Host, question: Question, gates: _Gates) -> Answer:
    """One host's answer."""
    with gates.logins:
        began = time.monotonic()
        try:
            connection = connect(host, CONNECT_S)
        except Unreachable as error:
            return Answer(host.name, silence="unreachable", message=printable(str(error)))
    if not question.asked:
        return _reached(host.name, connection)
    # Who queued for a jump host has lost no time of its own.
    whole = ASK_S[question.level]
    deadline = max(began + whole, time.monotonic() + whole - CONNECT_S)
    visit = _Visit(host, connection, question, gates, deadline)
    try:
        return visit.answer()
    finally:
        connection.close()


def request_for(host: Host, user: str, question: Question, nonce: str) -> Request:
    """What one host is asked; `user` is who logged in there."""
    return Request(
        nonce=nonce,
        host=host.name,
        level=question.level,
        checks=question.checks,
        expected=question.expected[host.name],
        prefix=host.spec.prefix,
        train_as=question.train_as or ("" if user == "root" else user),
        env=question.env,
        via=question.via,
        minutes=question.minutes,
        rendezvous=question.rendezvous.get(host.name),
        thresholds=dict(host.spec.thresholds),
        accept_hardware=question.accept_hardware,
    )


def _reached(name: str, connection: Connection) -> Answer:
    """Whether a host runs a command at all."""
    try:
        ran = connection.run("true", timeout_s=CONNECT_S)
    finally:
        connection.close()
    if ran.ok:
        return Answer(name, silence="pass")
    why = printable(ran.trouble or f"true ended with {ran.rc}{_last(ran.err)}")
    return Answer(name, silence="hung" if _hung(ran) else "not-run", message=f"{name}: {why}")


class _Visit:
    """The conversation with one host."""

    def __init__(
        self,
        host: Host,
        connection: Connection,
        question: Question,
        gates: _Gates,
        deadline: float,
    ) -> None:
        self.host, self.connection, self.question = host, connection, question
        self.gates, self.deadline = gates, deadline
        self.request = request_for(host, connection.user, question, launch.new_nonce())
        self.notes: list[str] = []

    def answer(self) -> Answer:
        ran, line = self._run()
        if line is not None and line.word in (launch.MISSING, launch.DAMAGED):
            trouble = self._push(line)
            if line.word == launch.DAMAGED:
                return self._damaged(line, trouble)
            if trouble:
                return self._silent("not-run", f"the bundle could not be put there: {trouble}")
            self.notes.append("the bundle was pushed")
            ran, line = self._run()
        if ran.trouble or line is not None:
            return self._trouble(ran, line)
        question = self.question
        try:
            result = read(
                ran.out,
                self.request,
                question.bundle.id,
                asked=set(question.asked),
                known=set(question.known),
            )
        except BadAnswer as bad:
            return self._silent("not-run", f"its answer cannot be used: {bad}{_last(ran.err)}")
        if self.host.spec.privileged and result.user != "root":
            refused = [text for text in ran.err.splitlines() if text.startswith(REFUSALS)]
            why = f" ({printable(refused[-1])[:MOST_SAID]})" if refused else ""
            self.notes.append(
                f"the checks ran as {result.user}, not as root{why}: what only root can see is "
                "unknown"
            )
        return Answer(self.host.name, result=result, notes=tuple(self.notes))

    def _run(self) -> tuple[Result, Said | None]:
        left = max(1.0, self.deadline - time.monotonic())
        text = self._script("run", limit_s=max(1, int(left) - MARGIN_S))
        ran = self.connection.run_script(
            text, timeout_s=left, limit=MOST_BYTES, root=self.host.spec.privileged
        )
        return ran, said(ran.out, self.request.nonce)

    def _script(self, action: launch.Action, limit_s: int = 0) -> str:
        return script(
            action,
            id=self.question.bundle.id,
            prefix=self.host.spec.prefix,
            privileged=self.host.spec.privileged,
            nonce=self.request.nonce,
            limit_s=limit_s,
            request=self.request.model_dump_json(by_alias=True) if action == "run" else "",
        )

    def _push(self, line: Said) -> str:
        """Put the bundle there, as the user that lacked it; what went wrong, or ""."""
        with self.gates.pushes:
            began = time.monotonic()
            ran = self.connection.run(
                self._script("push"),
                stdin=self.question.bundle.text,
                timeout_s=PUSH_S,
                root=line.uid == 0 and self.host.spec.privileged,
            )
        self.deadline += time.monotonic() - began
        answer = said(ran.out, self.request.nonce)
        if answer is not None and answer.word == launch.PUSHED:
            return ""
        return (answer.text if answer else ran.trouble or "no answer") + _last(ran.err)

    def _damaged(self, line: Said, trouble: str) -> Answer:
        """What is not as it was pushed is never run, and is said even though it is mended."""
        healed = (
            f"it could not be replaced: {trouble}"
            if trouble
            else "a whole one is in its place now, and the damaged one beside it as .replaced: "
            "find out who changed it, then verify again"
        )
        return self._silent(
            "not-run", f"the bundle there was changed and was not run: {line.text}; {healed}"
        )

    def _trouble(self, ran: Result, line: Said | None) -> Answer:
        """Why there is no answer, from what the transport and launch.sh say."""
        prefix = self.host.spec.prefix
        if _hung(ran):
            return self._silent("hung", f"{ran.trouble}{_last(ran.err)}")
        if ran.trouble:
            return self._silent("not-run", f"{ran.trouble}{_last(ran.err)}")
        assert line is not None
        if line.word == "ended" and line.text in KILLED:
            return self._silent("hung", f"the checks did not end in time{_last(ran.err)}")
        if line.word == "ended":
            return self._silent("not-run", f"the checks ended with {line.text}{_last(ran.err)}")
        if line.word == "no-python":
            message = f"no Python >= 3.10 there: {line.text}; apt-get install python3, or "
            return self._silent("not-run", message + "gpufleet apply builds an environment")
        if line.word == "unsafe":
            message = f"the bundle there is not safe to run: {line.text}; make {prefix} and the "
            return self._silent("not-run", message + "folders above it root's own (chmod go-w)")
        if line.word in (launch.MISSING, launch.DAMAGED):
            message = f"the bundle was {line.word} as soon as it was put there: {line.text}"
            return self._silent("not-run", message)
        return self._silent("not-run", line.text or line.word)

    def _silent(self, silence: Silence, message: str) -> Answer:
        text = f"{self.host.name}: {printable(message)}"
        return Answer(self.host.name, silence=silence, message=text, notes=tuple(self.notes))


def _hung(ran: Result) -> bool:
    """A command that met its time limit (deploy.fleet.conversation)."""
    return ran.trouble.startswith(("no end within", "no answer within"))


def _last(err: str) -> str:
    """Where it was: the last stage that was told, else the last line of standard error."""
    lines = [printable(line).strip() for line in err.splitlines()[-50:]]
    lines = [line for line in lines if line and not line.startswith(REFUSALS)]
    stages = [line for line in lines if line.startswith("stage: ")]
    last = (stages or lines)[-1:]
    return f"; last said: {last[0][:MOST_SAID]}" if last else ""
