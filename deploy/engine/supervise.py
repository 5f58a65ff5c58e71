"""One command of a step, run on a host so that losing the controller harms nothing.

The command runs in a session of its own, with its output in a file and its time limit kept by
the host. We only watch the file. When the controller dies, apt is neither killed nor does it
write into a closed pipe: it ends in its own time, and the next controller waits for that
(deploy/fleet/hostlock.py). Begin and end are written to the host's own journal by the host.
"""

import json
import shlex
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from deploy.fleet.model import Model
from deploy.fleet.places import SYSTEM, Places
from deploy.fleet.runs import Run, controller, now, printable
from deploy.steps import Command, Step

if TYPE_CHECKING:
    from deploy.fleet.transport import Connection

JOURNAL_LIMIT = 1_000_000
"""Bytes of the host's journal; above it the older half is dropped."""
WATCH_S = 0.05
"""How soon after its end a command is seen to have ended."""
OUTPUT_LIMIT = 64_000_000
"""Bytes of one command's output; beyond it we stop listening."""
KILL_AFTER_S = 15
TAIL = 20
"""Lines of output that a failure shows."""
GRACE_S = 45
"""How much longer than the host's own limit the controller listens."""

_SCRIPT = """\
limit={limit}
umask 022
mkdir -p -m 700 {work} && mkdir -p {state} && exec 8>>{work}/step || exit 1
if ! flock -n 8; then
    echo "gpufleet: another step is still running here: $(head -c 300 {work}/what)"
    exit 1
fi
cat >{work}/stdin
if [ "$(wc -c <{work}/stdin)" -ne {stdin_bytes} ]; then
    echo "gpufleet: the input of this step arrived incomplete"
    exit 1
fi
printf '%s\\n' {what} >{work}/what
printf '%s\\n' "$limit" >{work}/limit
if [ "$(wc -c 2>/dev/null <{journal} || echo 0)" -gt {journal_limit} ]; then
    tail -c {journal_half} {journal} | tail -n +2 >{journal}.partial
    mv {journal}.partial {journal}
fi
: >{work}/log
setsid sh -c '
    journal() {{
        printf "%s, \\"event\\": \\"%s\\", \\"time\\": \\"%s\\"%s}}\\n" \\
            "$1" "$2" "$(date -u +%Y-%m-%dT%H:%M:%SZ)" "$3" >>{journal}
    }}
    journal "$1" began ""
    timeout -k {kill_after} "$2" sh -c "$3" <{work}/stdin >>{work}/log 2>&1 8>&-
    rc=$?
    journal "$1" ended ", \\"rc\\": $rc"
    exit $rc
' gpufleet {entry} "$limit" {shell} </dev/null >/dev/null 2>&1 &
supervisor=$!
exec 8>&-
tail -n +1 -s {watch} -f --pid=$supervisor {work}/log &
tail=$!
wait $supervisor
rc=$?
wait $tail
exit $rc
"""


class Ran(Model):
    """How one command of a step ended."""

    rc: int | None
    seconds: float
    trouble: str
    """"" or why there is no exit code: deadline, lost connection, too much output."""

    @property
    def ok(self) -> bool:
        return self.rc == 0 and not self.trouble


class Failure(Model):
    """Why a step did not end well."""

    rc: int | None
    found: str
    tail: tuple[str, ...]
    """Last lines of output, then those of the log on the host that explains it."""


class Reporter(Protocol):
    """Where a host's progress is shown while it converges."""

    def note(self, host: str, text: str) -> None:
        """One sentence about what is going on."""

    def step(self, host: str, step: Step, number: int, count: int) -> None:
        """A step begins: `number` of `count` in this round."""

    def line(self, host: str, text: str) -> None:
        """One line of the running command's output."""


def run_step(
    connection: "Connection", step: Step, *, run: Run, report: Reporter, where: Places = SYSTEM
) -> Failure | None:
    """Run a step's commands in order up to the first that fails; None when all went well.

    Every command is in the run's journal before it begins and after it ended; its output goes to
    the host's raw log and, line by line, to `report`.
    """
    host, log = connection.host, run.log(connection.host)
    for number, command in enumerate(step.commands, start=1):
        about = {"layer": step.layer, "title": step.title, "command": number}
        run.event("command-began", host, **about)
        log.line(f"==> {now()} {step.layer}: {step.title} ({step.why})")
        tail: deque[str] = deque(maxlen=TAIL)

        def on_line(text: str, tail: deque[str] = tail) -> None:
            log.line(text)
            clean = printable(run.redact(text))
            tail.append(clean)
            report.line(host, clean)

        ran = run_command(
            connection, step, command, run=run.id, by=controller(), on_line=on_line, where=where
        )
        ended = {"rc": ran.rc, "seconds": round(ran.seconds, 3), "trouble": ran.trouble}
        run.event("command-ended", host, **about, **ended)
        log.line(f"==> {now()} {ran.trouble or f'exit {ran.rc}'} after {ran.seconds:.1f} s")
        if not ran.ok:
            found = ran.trouble or f"its command ended with exit code {ran.rc}"
            shown = explaining_log(connection, command.log, where) if command.log else []
            if shown:
                shown.insert(0, f"--- the end of {command.log} on the host:")
            for text in shown:
                log.line(text)
            return Failure(
                rc=ran.rc,
                found=f"{found} after {ran.seconds:.0f} s",
                tail=(*tail, *map(run.redact, shown)),
            )
    return None


def run_command(
    connection: "Connection",
    step: Step,
    command: Command,
    *,
    run: str,
    by: str,
    on_line: Callable[[str], None],
    where: Places = SYSTEM,
) -> Ran:
    """Run one command of a step, as root where `where` says so; never raises for what the host
    does.

    `run` and `by` (user@machine) go into the host's journal. The time limit is `command.timeout_s`
    seconds, kept by the host; if it cannot be kept there, this call still returns
    `KILL_AFTER_S + GRACE_S` seconds later.
    """
    entry = json.dumps({"run": run, "by": by, "layer": step.layer, "title": step.title})
    script = _SCRIPT.format(
        work=where.work,
        watch=WATCH_S,
        state=where.record,
        journal=where.journal,
        journal_limit=JOURNAL_LIMIT,
        journal_half=JOURNAL_LIMIT // 2,
        limit=command.timeout_s,
        kill_after=KILL_AFTER_S,
        stdin_bytes=len(command.stdin.encode()),
        what=shlex.quote(printable(f"{step.layer}: {step.title} (run {run} of {by})")),
        entry=shlex.quote(entry.removesuffix("}")),
        shell=shlex.quote(command.shell),
    )
    result = connection.run(
        script,
        stdin=command.stdin,
        timeout_s=command.timeout_s + KILL_AFTER_S + GRACE_S,
        root=where.root,
        limit=OUTPUT_LIMIT,
        on_line=on_line,
    )
    trouble = result.trouble
    if not trouble and result.rc == 124:
        trouble = f"it did not end within its limit of {command.timeout_s} s and was stopped"
    return Ran(rc=result.rc, seconds=result.seconds, trouble=trouble)


def explaining_log(
    connection: "Connection", pattern: str, where: Places = SYSTEM, lines: int = 40
) -> list[str]:
    """The tail of the newest file on the host that matches `pattern` (a path, may hold * and ?).

    Empty when nothing matches or the host does not answer: this only explains a failure that is
    known already.
    """
    if not pattern.startswith("/") or set(pattern) & set(" \t\n'\"\\$`;&|<>(){}!#"):
        raise AssertionError(f"not a path or glob: {pattern!r}")
    script = f'newest=$(ls -1t {pattern} 2>/dev/null | head -n 1); tail -n {lines} "$newest"'
    result = connection.run(script, timeout_s=20, root=where.root, limit=200_000)
    return [printable(line) for line in result.out.splitlines()[-lines:]] if result.ok else []
