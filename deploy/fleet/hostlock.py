"""One controller at a time on a host, and one step at a time.

Two locks, both `flock`, so that neither survives a reboot; deploy/fleet/places.py says where:

- `Places.lock` is held by a command of ours whose stdin is our live connection. When the
  controller ends in any way, kill -9 included, that command reads EOF and the lock is free. Its
  text says who holds it.
- `step` in `Places.work` is held by the supervisor of the running step
  (deploy/engine/supervise.py), which outlives us. Whoever takes the host lock waits here until an
  orphaned apt or build has ended.
"""

import shlex
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from deploy.fleet.model import Model
from deploy.fleet.places import SYSTEM, Places
from deploy.fleet.runs import printable

if TYPE_CHECKING:
    from deploy.fleet.transport import Connection

LOCK_TIMEOUT_S = 30
GRACE_S = 5
"""How long the lock is asked for: the holder of a controller killed a moment ago may still have
to notice."""

BEAT_S = 60
"""Pause between two signs of life from the holder: without traffic sshd would notice a dead
network only after hours, and the host would stay locked for that long."""

_HOLD = """\
owner={owner}
umask 022
mkdir -p {folder} && exec 9>>{lock} || exit 1
if ! flock -w {grace} 9; then
    printf 'locked %s\\n' "$(head -c 300 {lock} | head -n 1)"
    exit 0
fi
printf '%s, pid %s\\n' "$owner" "$$" >{lock}
echo held
(
    trap 'kill $pause; exit' TERM
    while sleep {beat} >/dev/null 2>&1 & do
        pause=$!
        wait $pause && echo
    done
) 9>&- &
cat >/dev/null
kill $!
# Removal takes the file away while we hold it.
[ ! -e {lock} ] || : >{lock}
"""

_WAITING = "waiting for what an earlier controller left running"
_WAIT = """\
[ -e {work}/step ] || exit 0
exec 8>>{work}/step || exit 1
flock -n 8 && exit 0
limit=$(head -c 8 {work}/limit | tr -cd 0-9)
printf '{waiting}: %s\\n' "$(head -c 300 {work}/what)"
tail -n 1 -f {work}/log 2>/dev/null 8>&- &
flock -w "$((${{limit:-600}} + 60))" 8
rc=$?
kill $!
exit $rc
"""

WAIT_TIMEOUT_S = 6 * 3600
"""Backstop of the wait for an orphaned step; the step's own limit ends it long before."""


class Owner(Model):
    """Who holds a host, as others read it."""

    controller: str
    """user@machine"""
    run: str
    since: str

    def __str__(self) -> str:
        return f"{self.controller} since {self.since} (run {self.run})"


class Locked(Exception):  # noqa: N818 - reads as what it is at every raise
    """Another controller works on this host; the message names it."""


class LockTrouble(Exception):  # noqa: N818 - reads as what it is at every raise
    """The lock could not be taken for another reason; the message says which."""


@contextmanager
def host_lock(
    connection: "Connection",
    owner: Owner,
    *,
    note: Callable[[str], None],
    line: Callable[[str], None],
    where: Places = SYSTEM,
) -> Iterator[Callable[[], bool]]:
    """Hold the host for the block; wait first for an orphaned step of an earlier controller.

    Yields a function that says whether the lock is still held. `note` gets the sentence that says
    what is waited for, `line` the output of that step from then on. Raises Locked or LockTrouble,
    both before the block begins.
    """
    command = _HOLD.format(
        owner=shlex.quote(printable(str(owner))),
        lock=where.lock,
        folder=where.lock.rpartition("/")[0],
        grace=GRACE_S,
        beat=BEAT_S,
    )
    held = connection.hold(command, root=where.root, timeout_s=LOCK_TIMEOUT_S)
    try:
        first = printable(held.first_line).strip()
        if first.startswith("locked"):
            by = first.removeprefix("locked").strip() or "another controller (it has just begun)"
            raise Locked(
                f"{connection.host}: locked by {by}; wanted the host for this run: wait for that "
                "run to end, then apply again"
            )
        if first != "held":
            raise LockTrouble(
                f"{connection.host}: {where.lock} could not be locked{' as root' * where.root} "
                f"within {LOCK_TIMEOUT_S} s ({printable(held.trouble or first)[:300]}); look with: "
                f"ssh {connection.host} {'sudo -n ' * where.root}flock -n {where.lock} true"
            )
        waited = connection.run(
            _WAIT.format(work=where.work, waiting=_WAITING),
            root=where.root,
            timeout_s=WAIT_TIMEOUT_S,
            on_line=lambda text: note(text) if text.startswith(_WAITING) else line(text),
        )
        if not waited.ok:
            raise LockTrouble(
                f"{connection.host}: what an earlier controller left running did not end within "
                f"its time limit ({waited.trouble or 'still running'}); look at "
                f"{where.work}/what and {where.work}/log there"
            )
        yield held.alive
    finally:
        held.close()
