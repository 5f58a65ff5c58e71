"""Run a command under a deadline, and walk away from what cannot be killed.

    within.py SECONDS [--user NAME [--session]] [--login] -- COMMAND...

Prints one line `GPUFLEET {"schema": 1, "rc", "hung", "abandoned", "seconds", "out", "err",
"stage"}` and ends 0 whatever the command came to: `rc` is its exit status (negative: the signal
that ended it), null when it was stopped or never ran (then `refused` is there too, and `err` says
why); `stage` is its last line `stage: ...` on standard error. The end of a long output is kept.

A process in uninterruptible sleep takes no signal, and whoever waits for it, or for the end of a
pipe that it holds, waits as long. So the command gets a session of its own and files in memory for
its output, is asked whether it has ended and never waited for, and is left behind when SIGKILL
does not end it. Nothing here opens the command's own program either: the child does that.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import pwd
import re
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, NoReturn

MARK = "GPUFLEET "
"""Begins the one line of a payload that is read; everything else is for people."""
PROGRESS_S = 1.5
"""A process that used no processor for this long before its time was over is stuck, not slow."""
TERM_S = 1.0
"""How long a command has between SIGTERM and SIGKILL."""
KILL_S = 0.7
"""How long SIGKILL may take before a process counts as one that cannot be killed."""
MOST_OUT = 1_000_000
"""Bytes of standard output that are kept."""
MOST_ERR = 20_000
MOST_WRITTEN = 64 * 1024 * 1024
"""Bytes of output, held in memory, at which a command is stopped."""
SECONDS = (0.1, 86400.0)
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
KEPT = ("LANG", "LC_ALL", "TERM", "TZ", "PYTHONDONTWRITEBYTECODE")
"""Variables of ours that another user's command gets; the rest may hold what is not theirs."""

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
SESSION_S = 5.0
"""How long PAM may take to open a session."""
LIMITS = {
    "Max cpu time": resource.RLIMIT_CPU,
    "Max file size": resource.RLIMIT_FSIZE,
    "Max data size": resource.RLIMIT_DATA,
    "Max stack size": resource.RLIMIT_STACK,
    "Max core file size": resource.RLIMIT_CORE,
    "Max processes": resource.RLIMIT_NPROC,
    "Max open files": resource.RLIMIT_NOFILE,
    "Max locked memory": resource.RLIMIT_MEMLOCK,
    "Max address space": resource.RLIMIT_AS,
}
"""Name in /proc/PID/limits -> what setrlimit(2) calls it; those that limits.conf(5) can set."""

_LOGIN = '[ -r /etc/profile ] && . /etc/profile; exec "$0" "$@"'
_STAGE = re.compile(rb"^stage: (.*)$", re.MULTILINE)
_libc = ctypes.CDLL(None)


class Refused(Exception):  # noqa: N818 - an answer, not a fault
    """The command was not started; the message says why."""


@dataclass(frozen=True)
class User:
    """Whom a command runs as, and where that user may write until it ends."""

    name: str
    uid: int
    gid: int
    home: str
    """A private directory, its HOME and TMPDIR; of a user with a `session` TMPDIR alone."""
    session: bool = False
    """It has a home and limits of its own, as PAM gives them to a session."""
    own_home: str = ""
    limits: tuple[tuple[int, int, int], ...] = ()
    """setrlimit's resource, soft and hard limit."""


class Child:
    """A running child: a forked copy of this process that calls `action` and ends with it.

    `action` is to exec a program, or to print and return. It runs in a session of its own with no
    input, in /, and becomes `user` first when one is given. `seconds` is its time.
    """

    def __init__(
        self, action: Callable[[], None], seconds: float, user: User | None = None
    ) -> None:
        self.seconds = seconds
        self.hung = False
        self.slow = False
        """It had not ended in time, and was computing or waiting for a core until then."""
        self.abandoned = False
        self.flooded = False
        self.rc: int | None = None
        self.ended: float | None = None
        self._signalled: float | None = None
        self._killed: float | None = None
        self._looked = 0.0
        self._ticks: tuple[float, ...] = ()
        """Processor time used at the last two looks at it, `PROGRESS_S` apart."""
        self._out = os.memfd_create("out")
        self._err = os.memfd_create("err")
        self.begun = time.monotonic()
        parent = os.getpid()
        sys.stdout.flush()
        sys.stderr.flush()
        self.pid = os.fork()
        if self.pid == 0:
            self._become(action, user, parent)

    def _become(self, action: Callable[[], None], user: User | None, parent: int) -> NoReturn:
        status = 125
        try:
            os.setsid()
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                signal.signal(number, signal.SIG_DFL)
            nothing = os.open(os.devnull, os.O_RDONLY)
            for source, target in ((nothing, 0), (self._out, 1), (self._err, 2)):
                os.dup2(source, target)
            os.closerange(3, 4096)
            os.chdir("/")
            for kind, soft, hard in user.limits if user is not None else ():
                resource.setrlimit(kind, (soft, hard))
            if user is not None:
                os.initgroups(user.name, user.gid)
                os.setresgid(user.gid, user.gid, user.gid)
                os.setresuid(user.uid, user.uid, user.uid)
            # After the change of user, which would undo it: who kills us takes our children along.
            _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() != parent:
                os._exit(125)
            action()
            sys.stdout.flush()
            status = 0
        except BaseException as error:
            text = f"{type(error).__name__}: {error}\n"
            os.write(2, text.encode(errors="replace"))
        finally:
            os._exit(status)

    @property
    def out(self) -> bytes:
        """Standard output until now, of a long one the end."""
        return _end_of(self._out, MOST_OUT)

    @property
    def err(self) -> bytes:
        """The end of standard error until now."""
        return _end_of(self._err, MOST_ERR)

    @property
    def stage(self) -> str:
        """What it said last that it was about to do."""
        found = _STAGE.findall(self.err)
        return found[-1].decode(errors="replace").strip()[:200] if found else ""

    @property
    def done(self) -> bool:
        """Nothing is to be expected of it any more: it has ended, or was left behind."""
        return self.ended is not None

    def look(self) -> bool:
        """Ask once whether it has ended; stop it when its time is over. Returns `done`."""
        if self.done:
            return True
        now = time.monotonic()
        try:
            ended = os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:  # somebody else in this process has taken its status
            self.ended = now
            return True
        if ended is not None:
            # What it left running, while its number is still taken and means this group.
            _signal_group(self.pid, signal.SIGKILL)
            _, status = os.waitpid(self.pid, 0)
            self.ended = now
            if self._signalled is None:
                self.rc = os.waitstatus_to_exitcode(status)
        elif self._killed is not None:
            if now - self._killed > KILL_S:
                self.abandoned = True
                self.ended = now
        elif self._signalled is not None:
            if now - self._signalled > TERM_S:
                self._killed = now
                _signal_group(self.pid, signal.SIGKILL)
        elif now - self.begun > self.seconds:
            self.hung, self.slow = True, self._works()
            self.stop()
        elif os.fstat(self._out).st_size + os.fstat(self._err).st_size > MOST_WRITTEN:
            self.flooded = True
            self.stop()
        elif now - self._looked > PROGRESS_S:
            self._looked = now
            self._ticks = (*self._ticks[-1:], _cpu_of(self.pid)[1])
        return self.done

    def _works(self) -> bool:
        """Whether it computes, or would if it had a core: slow, and not stuck."""
        runnable, used = _cpu_of(self.pid)
        return runnable or (len(self._ticks) == 2 and used > self._ticks[0])

    def stop(self) -> None:
        """Ask it to end; `look` goes on from there."""
        if self._signalled is None and not self.done:
            self._signalled = time.monotonic()
            _signal_group(self.pid, signal.SIGTERM)
            _signal_group(self.pid, signal.SIGCONT)  # a stopped process would not take it

    def kill(self) -> None:
        """SIGKILL to its group, and no more looks."""
        if not self.done:
            _signal_group(self.pid, signal.SIGKILL)

    def document(self) -> dict[str, Any]:
        """The line that `within.py` prints, as values."""
        err = self.err.decode(errors="replace")
        if self.flooded:
            err += f"\nstopped: it had printed more than {MOST_WRITTEN >> 20} MiB"
        return {
            "schema": 1,
            "rc": self.rc,
            "hung": self.hung,
            "abandoned": self.abandoned,
            "seconds": round((self.ended or time.monotonic()) - self.begun, 3),
            "out": self.out.decode(errors="replace"),
            "err": err,
            "stage": self.stage,
        }


def wait(children: Iterable[Child]) -> None:
    """Until each has ended or was left behind: at most its seconds, `TERM_S` and `KILL_S`."""
    left = list(children)
    pause = 0.002
    while left := [one for one in left if not one.look()]:
        time.sleep(pause)
        pause = min(pause * 1.5, 0.03)


def executes(
    command: list[str], environment: Mapping[str, str], login: bool = False
) -> Callable[[], None]:
    """The action of a child that becomes `command`: exit status 127 when there is no such program,
    126 when it cannot be run. `login` gives it what a login here gets besides `environment`."""

    def action() -> None:
        values = {**environment, **(pam_environment() if login else {})}
        words = ["/bin/sh", "-c", _LOGIN, *command] if login else command
        try:
            os.execvpe(words[0], words, values)
        except OSError as error:
            os.write(2, f"{words[0]}: {error.strerror}\n".encode(errors="replace"))
            os._exit(127 if isinstance(error, FileNotFoundError) else 126)

    return action


def pam_environment(file: str = "/etc/environment") -> dict[str, str]:
    """What pam_env(8) gives every login from /etc/environment; {} when there is none."""
    try:
        with open(file, encoding="utf-8", errors="surrogateescape") as lines:
            text = lines.read(65536)
    except OSError:
        return {}
    found = {}
    for line in text.splitlines():
        key, equals, value = line.strip().removeprefix("export ").partition("=")
        if equals and re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", key) and "\0" not in value:
            if len(value) > 1 and value[0] == value[-1] and value[0] in "'\"":
                value = value[1:-1]
            found[key] = value
    return found


def limits_of(text: str) -> tuple[tuple[int, int, int], ...]:
    """Limits as /proc/PID/limits shows them: resource, soft and hard for setrlimit(2)."""
    found = []
    for line in text.splitlines():
        match = re.match(r"(Max [a-z ]+?) {2,}(\d+|unlimited) +(\d+|unlimited)\b", line)
        if match and match[1] in LIMITS:
            soft, hard = (
                resource.RLIM_INFINITY if word == "unlimited" else int(word)
                for word in (match[2], match[3])
            )
            found.append((LIMITS[match[1]], soft, hard))
    return tuple(found)


def in_session(user: User) -> User:
    """The user as its own sessions have it: its home, and the limits that PAM gives it.

    runuser(1) opens such a session, with pam_limits among its rules on every distribution that we
    know; who lacks runuser keeps ours. Raises Refused when PAM opens none.
    """
    entry = pwd.getpwuid(user.uid)
    limits = ""
    runuser = shutil.which("runuser", path=PATH)
    if runuser:
        words = [runuser, "-u", user.name, "--", "cat", "/proc/self/limits"]
        child = Child(executes(words, {"PATH": PATH}), SESSION_S)
        wait([child])
        if child.rc != 0:
            said = child.err.decode(errors="replace").strip()[-200:] or f"exit {child.rc}"
            raise Refused(f"no session of user {user.name} can be opened: {said}")
        limits = child.out.decode(errors="replace")
    return replace(user, session=True, own_home=entry.pw_dir, limits=limits_of(limits))


def user_of(name: str) -> User:
    """A user to become, with a private directory to write in. Raises Refused."""
    try:
        entry = pwd.getpwnam(name)
    except KeyError:
        raise Refused(f"there is no user {name!r} on this host") from None
    if os.geteuid() != 0:
        raise Refused(f"only root can run a command as {name}")
    reasons = []
    for place in ("/tmp", "/var/tmp", "/dev/shm"):
        try:
            home = tempfile.mkdtemp(prefix="gpufleet-", dir=place)
        except OSError as error:
            reasons.append(f"{place}: {error.strerror}")
            continue
        os.chown(home, entry.pw_uid, entry.pw_gid)
        return User(name, entry.pw_uid, entry.pw_gid, home)
    raise Refused(f"no directory for user {name} could be made ({'; '.join(reasons)})")


def environment_of(user: User | None) -> dict[str, str]:
    """Ours, or for another user a fresh one with its private directory as HOME and TMPDIR.

    Who has a session has its own HOME.
    """
    if user is None:
        return dict(os.environ)
    home = user.own_home if user.session else user.home
    own = {"HOME": home, "TMPDIR": user.home, "USER": user.name, "LOGNAME": user.name}
    kept = {name: os.environ[name] for name in KEPT if name in os.environ}
    return {"PATH": PATH, **kept, **own}


def is_other(name: str) -> bool:
    """Whether this names another user than the one that runs this."""
    if not name:
        return False
    try:
        return pwd.getpwnam(name).pw_uid != os.geteuid()
    except KeyError:
        return True


def remove(user: User | None) -> None:
    """Remove a user's private directory; what cannot be removed stays."""
    if user is not None:
        shutil.rmtree(user.home, ignore_errors=True)


def line_of(document: Mapping[str, Any]) -> str:
    """The one line that a payload prints."""
    return MARK + json.dumps(document, separators=(",", ":"))


def _end_of(descriptor: int, most: int) -> bytes:
    size = os.fstat(descriptor).st_size
    return os.pread(descriptor, most, max(0, size - most))


def _cpu_of(pid: int) -> tuple[bool, float]:
    """Whether a process is running or waiting for a core, and the ticks that it has used."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as stat:
            fields = stat.read().rpartition(b")")[2].split()
        return fields[0] == b"R", float(fields[11]) + float(fields[12])
    except (OSError, IndexError, ValueError):
        return False, 0.0


def _signal_group(leader: int, number: int) -> None:
    try:
        os.killpg(leader, number)
    except ProcessLookupError:
        pass
    except PermissionError:  # a program with another user's rights: it ends by itself or is left
        pass


def _descendants() -> list[int]:
    """Processes below this one, orphans included, for which this process is the reaper."""
    parents: dict[int, int] = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                with open(f"/proc/{entry}/stat", "rb") as stat:
                    fields = stat.read().rpartition(b")")[2].split()
            except OSError:
                continue
            parents[int(entry)] = int(fields[1])
    found = [os.getpid()]
    for pid in found:
        found += [child for child, parent in parents.items() if parent == pid]
    return found[1:]


def _end_descendants() -> None:
    """Kill whatever the command started and left, sessions of its own included."""
    for pid in _descendants():
        try:
            os.kill(pid, signal.SIGKILL)
        except OSError:
            continue


def main(argv: list[str]) -> int:
    """Run one command; 0 when a line was printed, 2 on wrong arguments."""
    parser = argparse.ArgumentParser(prog="within.py", description="Runs a command in time.")
    parser.add_argument("seconds", type=float)
    parser.add_argument("--user", default="", help="whom to become, as root")
    parser.add_argument(
        "--session", action="store_true", help="with that user's home and limits, as PAM has them"
    )
    parser.add_argument("--login", action="store_true", help="with what a login gets from /etc")
    parser.add_argument("command", nargs="+")
    asked = parser.parse_args(argv)
    if not SECONDS[0] <= asked.seconds <= SECONDS[1]:
        parser.error(f"seconds: wanted {SECONDS[0]:g} to {SECONDS[1]:g}")
    user = None
    try:
        if is_other(asked.user):
            user = user_of(asked.user)
            user = in_session(user) if asked.session else user
        _libc.prctl(_PR_SET_CHILD_SUBREAPER, 1)
        action = executes(asked.command, environment_of(user), asked.login)
        child = Child(action, asked.seconds, user)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, lambda *_: child.stop())
        wait([child])
        _end_descendants()
        document = child.document()
    except Refused as reason:
        empty = {"rc": None, "hung": False, "abandoned": False, "seconds": 0.0, "out": ""}
        document = {"schema": 1, **empty, "err": str(reason), "stage": "", "refused": True}
    finally:
        remove(user)
    print(line_of(document), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
