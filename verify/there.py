"""The host as the checks find it: payloads run there, their answers, and the scene made of them.

Travels to the host. On the host itself the bundle is the folder that this file lies in; through
any other backend of testinfra it is pushed first, and only then is verify/bundle.py imported.
"""

from __future__ import annotations

import json
import os
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from verify import own, started
from verify.applies import Scene
from verify.checks import MARK, said
from verify.training import Unusable, parsed

PREFIX = "/opt/gpufleet"
CHUNK = 96_000
"""Characters of one pushed piece: a single argument may have 128 KiB (Linux, MAX_ARG_STRLEN)."""
FAULT_LENGTH = 300


class Unreachable(Exception):  # noqa: N818 - an answer, not a fault
    """The host, or what has to run there, does not answer; the text says why."""


@dataclass(frozen=True)
class Ground:
    """Where the payloads lie on a host, and what runs them."""

    root: str
    python: str


_grounds: dict[str, Ground] = {}


def request(level: str, expected: str | None) -> dict[str, Any]:
    """The request of who runs plain pytest: nobody's lock, perhaps a file with expected state."""
    state = None
    if expected is not None:
        try:
            found = json.loads(Path(expected).read_text())
            if not isinstance(found, dict):
                raise own.Unusable(f"{expected} holds no JSON object")
            state = own.usable(found, expected)
        except (OSError, ValueError, own.Unusable) as error:
            import pytest

            raise pytest.UsageError(f"--expected {expected}: {error}") from None
    return {
        "host": "",
        "level": level,
        "expected": state,
        "prefix": state["prefix"] if state else PREFIX,
        "train_as": "",
        "env": "",
        "via": "",
        "minutes": 0,
        "rendezvous": None,
        "thresholds": (state or {}).get("thresholds") or {},
        "accept_hardware": False,
    }


def scene(host: Any, asked: dict[str, Any]) -> Scene:
    """Everything that decides what is asked; Unreachable when the host gives no report."""
    try:
        return _scene(host, asked)
    except (RuntimeError, OSError) as error:  # testinfra's, when a connection fails
        raise Unreachable(f"the host does not answer: {said(error)}") from None


def _scene(host: Any, asked: dict[str, Any]) -> Scene:
    prefix = asked["prefix"]
    try:
        mine, _ = own.own_expected(host, prefix)
        own_fault = ""
    except own.Unusable as error:
        mine, own_fault = None, str(error)
    try:
        record, record_fault = own.own_record(host, prefix), ""
    except own.Unusable as error:
        record, record_fault = None, str(error)
    given = asked["expected"]
    expected = own.filled(given, mine, record) if given is not None else mine
    if given is not None:
        whence = asked.get("expected_from", "file")
    else:
        whence = "none" if mine is None else "host"
    asked = {**asked, "env": _other_environment(host, asked["env"], expected)}
    return Scene(
        asked={**asked, "host": asked["host"] or host.backend.get_hostname()},
        report=host_report(host, asked, expected),
        expected=expected,
        expected_from=whence,
        own=mine,
        own_fault=own_fault,
        record=record,
        record_fault=record_fault,
    )


def _other_environment(host: Any, env: str, expected: dict[str, Any] | None) -> str:
    """The environment of --env, "" where it is the expected one by this or another path."""
    mine = (expected or {}).get("environment")
    if not env or not mine:
        return env
    paths = {
        host.run("readlink -f %s", path).stdout.strip() or path for path in (env, mine["path"])
    }
    return env if len(paths) == 2 else ""


def host_report(
    host: Any, asked: dict[str, Any], expected: dict[str, Any] | None
) -> dict[str, Any]:
    """What verify/payload/host_report.py says."""
    prefix, other = asked["prefix"], asked["env"]
    question: dict[str, Any] = {"prefix": prefix, "mounts": (expected or {}).get("mounts") or []}
    if other:
        question |= {"env": other, "front": started.activated(other), "user": ""}
        try:
            rights = host.run("id -un; id -u").stdout.split()
            question["user"] = way(host, asked, rights[-1] == "0", rights[0]).user
        except (started.CannotStart, IndexError):
            pass  # train.starts says so; what can be seen of the environment, nobody sees
    else:
        question["env"] = _environment(host, prefix, expected)
    where = ground(host, prefix)
    file = f"{where.root}/verify/payload/host_report.py"
    return payload(host, where, [file, json.dumps(question)])


def _environment(host: Any, prefix: str, expected: dict[str, Any] | None) -> str | None:
    """The expected environment; with no expected state at all the current one, if there is one."""
    if expected is not None:
        environment = expected["environment"]
        return str(environment["path"]) if environment else None
    current = f"{prefix}/env"
    return current if host.run("test -e %s", f"{current}/bin/python").rc == 0 else None


def payload(host: Any, where: Ground, words: list[str]) -> dict[str, Any]:
    """Run a payload on the host; the object of its one line, or Unreachable."""
    command = shlex.join([where.python, "-I", "-S", "-B", *words])
    ran = host.run(command)
    lines = [line for line in ran.stdout.splitlines() if line.startswith(MARK)]
    name = Path(words[0]).name
    if len(lines) != 1:
        why = ran.stderr.strip()[-FAULT_LENGTH:] or "nothing on standard error"
        raise Unreachable(f"{name} gave {len(lines)} answers (exit {ran.rc}): {said(why)}")
    try:
        return parsed(lines[0][len(MARK) :])
    except Unusable as reason:
        raise Unreachable(f"{name}: {reason}") from None


def within(
    host: Any,
    prefix: str,
    seconds: float,
    *command: str,
    user: str = "",
    session: bool = False,
    login: bool = False,
) -> dict[str, Any]:
    """What verify/payload/within.py says of a command run on the host."""
    where = ground(host, prefix)
    words = [f"{where.root}/verify/payload/within.py", f"{seconds:g}"]
    words += ["--user", user] if user else []
    words += ["--session"] * session + ["--login"] * login
    return payload(host, where, [*words, "--", *command])


def way(host: Any, asked: dict[str, Any], root: bool, me: str) -> started.Way:
    """How training is started there. Raises started.CannotStart."""
    user: str = asked["train_as"]
    login = host.run('printf %s "${SUDO_USER:-}"').stdout.strip()
    uid = None
    if user:
        found = host.run("id -u -- %s", user)
        uid = int(found.stdout) if found.rc == 0 and found.stdout.strip().isdigit() else None
    return started.way(root=root, me=me, asked=user, login=login, uid=uid, via=asked["via"])


_refused: dict[str, started.CannotStart] = {}
"""Why nothing can be started on a host: found out once, not by every check that trains."""


def train(host: Any, scene: Scene, seconds: float, command: list[str]) -> dict[str, Any]:
    """What within.py says of a training command, started as asked, and `user`: whom it became, ""
    for who the checks run as. Raises started.CannotStart."""
    name = host.backend.get_pytest_id()
    if name in _refused:
        raise _refused[name]
    try:
        return _train(host, scene, seconds, command)
    except started.CannotStart as reason:
        _refused[name] = reason
        raise


def _train(host: Any, scene: Scene, seconds: float, command: list[str]) -> dict[str, Any]:
    asked, mine = scene.asked, scene.report["host"]
    chosen = way(host, asked, mine["root"], mine["user"])
    if asked["env"]:
        command = [*started.activated(asked["env"]), *command]
    if chosen.via:
        where = ground(host, asked["prefix"])
        name = f"gpufleet-{os.urandom(4).hex()}"
        seconds, command = started.job(where.root, where.python, seconds, command, name)
    said = within(host, asked["prefix"], seconds, *command, **started.arguments(chosen))
    if said.get("refused"):
        again = f"runuser -u {chosen.user} -- true"
        raise started.CannotStart(str(said["err"])[:300], f"a session of {chosen.user}", again)
    return {**(started.of_job(said) if chosen.via else said), "user": chosen.user}


def environment_python(
    asked: dict[str, Any], expected: dict[str, Any] | None, report: dict[str, Any]
) -> str:
    """Python of the environment that was asked for, else of the expected one, else of the current
    one that the report found."""
    if asked["env"]:
        return f"{asked['env']}/bin/python"
    if expected is not None:
        environment = expected["environment"]
        return f"{environment['path']}/bin/python" if environment else ""
    return f"{asked['prefix']}/env/bin/python" if report["torch"]["state"] != "absent" else ""


# ---- the bundle on the host


def ground(host: Any, prefix: str) -> Ground:
    """The bundle on the host and a Python for it; pushed once per host and session."""
    name = host.backend.get_pytest_id()
    if name not in _grounds:
        if host.backend.get_connection_type() == "local":
            _grounds[name] = Ground(str(Path(__file__).resolve().parent.parent), sys.executable)
        else:
            _grounds[name] = _pushed(host, prefix)
    return _grounds[name]


def _pushed(host: Any, prefix: str) -> Ground:
    """The bundle on a host that is looked at from outside, as verify/launch.sh finds or takes it;
    one that was changed there is replaced and said, as the runner does it."""
    from verify import launch
    from verify.bundle import bundle

    packed = bundle()

    def ask(action: launch.Action, archive: str = "") -> launch.Said:
        nonce = launch.new_nonce()
        ran = host.run(
            launch.script(
                action, id=packed.id, prefix=prefix, privileged=True, nonce=nonce, archive=archive
            )
        )
        answer = launch.said(ran.stdout, nonce)
        if answer is None:
            raise Unreachable(f"no answer there (exit {ran.rc}): {said(ran.stderr)}")
        return answer

    found = ask("check")
    if found.word in (launch.MISSING, launch.DAMAGED):
        arriving = _must(host, "mktemp")
        for at in range(0, len(packed.text), CHUNK):
            _must(host, "printf %%s %s >>%s", packed.text[at : at + CHUNK], arriving)
        taken = ask("push", arriving)
        _must(host, "rm -f %s", arriving)
        if taken.word != launch.PUSHED:
            raise Unreachable(f"the bundle could not be put there: {taken.text}")
        if found.word == launch.DAMAGED:
            healed = "a whole one is in its place now: find out who changed it, then ask again"
            raise Unreachable(f"the bundle there was changed: {found.text}; {healed}")
        found = ask("check")
    if found.word != launch.READY:
        raise Unreachable(f"the bundle there: {found.word}: {found.text}")
    python, _, folder = found.text.partition(" ")
    return Ground(folder, python)


def _must(host: Any, command: str, *words: str) -> str:
    ran = host.run(command, *words)
    if ran.rc != 0:
        raise Unreachable(f"the bundle could not be pushed (exit {ran.rc}): {said(ran.stderr)}")
    return str(ran.stdout).strip()
