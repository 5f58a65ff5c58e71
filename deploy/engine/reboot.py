"""Reboot one host and know that it happened: another boot_id, within a wall-clock deadline.

The kernel makes a new random /proc/sys/kernel/random/boot_id at every boot (random(4)), so neither
uptime nor a broken connection has to be interpreted. That a reboot was asked is recorded before
asking, in the run's journal and on the host: when the controller dies in between, the next one
finds the same boot_id and waits for that reboot instead of asking again, or finds another boot_id
and decides afresh from facts. Asking holds the lock of steps, so that the next controller cannot
ask between a dead one's record and its request.
"""

import json
import re
import shlex
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from deploy.fleet.places import SYSTEM
from deploy.fleet.runs import Run, controller, printable

if TYPE_CHECKING:
    from deploy.fleet.transport import Connection

DEADLINE_S = 1200
"""Large GPU servers take 5-15 minutes through their firmware (research: provisioning 3.3.5)."""
POLL_S = (1.0, 5.0)
"""First and longest pause between two looks."""
SETTLE_S = 300
"""How long services may take to start after the host answers again."""

RECORD = f"{SYSTEM.record}/reboot"
"""boot_id, uptime in seconds and run of the last reboot that was asked for."""

_READ_BOOT_ID = "cat /proc/sys/kernel/random/boot_id"
_BOOT_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")

_ASK = """\
mkdir -p -m 700 {work} && exec 8>>{work}/step && flock -n 8 || exit 1
printf 'reboot (run %s)\n' {run} >{work}/what
echo 150 >{work}/limit
: >{work}/log
boot=$(cat /proc/sys/kernel/random/boot_id) && up=$(cut -d. -f1 /proc/uptime) || exit 1
if [ "$boot" != {boot_id} ]; then echo booted; exit 0; fi
was= at=
[ -r {record} ] && read -r was at rest <{record}
if [ "$was" = "$boot" ] && [ "$((up - at))" -lt {deadline} ]; then
    echo "asked $((up - at))"
    exit 0
fi
mkdir -p {state}
printf '%s %s %s\\n' "$boot" "$up" {run} >{record}.partial && mv {record}.partial {record} || exit 1
printf '%s, "event": "reboot-asked", "time": "%s"}}\\n' {entry} \\
    "$(date -u +%Y-%m-%dT%H:%M:%SZ)" >>{journal}
sync
if timeout 60 systemctl -i reboot 2>&1 || timeout 60 reboot 2>&1; then
    echo asked 0
else
    rm -f {record}
    exit 1
fi
"""

_SETTLE = "timeout {limit} systemctl is-system-running --wait >/dev/null 2>&1; exit 0"


class RebootFailed(Exception):  # noqa: N818 - reads as what it is at every raise
    """The host did not boot again; the message says what was seen last."""


def pauses() -> Iterator[float]:
    """Seconds to wait between looks at a host that is away: soon at first, then less often."""
    pause, longest = POLL_S
    while True:
        yield pause
        pause = min(pause * 1.5, longest)


def reboot(
    connection: "Connection",
    again: Callable[[], "Connection"],
    *,
    boot_id: str,
    why: str,
    run: Run,
    deadline_s: float,
    note: Callable[[str], None],
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> "Connection":
    """Boot a host that still runs `boot_id` again; the connection to the new boot.

    `again` opens a new connection and may raise anything while the host is away. Returns at once
    when the host has another boot_id already. Raises RebootFailed when it refuses, or when
    `deadline_s` seconds have passed.
    """
    host = connection.host
    run.event("reboot-asked", host, boot_id=boot_id, why=why)
    entry = json.dumps({"run": run.id, "by": controller(), "title": why, "boot_id": boot_id})
    asked = connection.run(
        _ASK.format(
            boot_id=shlex.quote(boot_id),
            work=SYSTEM.work,
            record=RECORD,
            state=SYSTEM.record,
            journal=SYSTEM.journal,
            deadline=int(deadline_s),
            run=shlex.quote(run.id),
            entry=shlex.quote(entry.removesuffix("}")),
        ),
        timeout_s=150,
        root=True,
    )
    answer = printable(asked.out).strip().rpartition("\n")[2]
    if asked.rc not in (0, None) and not asked.trouble:
        raise RebootFailed(f"{host}: the host refused to reboot: {answer[-300:] or asked.rc}")
    earlier = re.fullmatch(r"asked ([1-9]\d{0,5})", answer)
    if earlier:
        note(f"an earlier run asked for this reboot {earlier[1]} s ago: waiting for it")
    else:
        note(f"rebooting: {why}")
    connection.close()

    end = clock() + deadline_s - (int(earlier[1]) if earlier else 0)
    last = "no connection was possible"
    for pause in pauses():
        left = end - clock()
        if left <= 0:
            raise RebootFailed(
                f"{host}: did not come back within {deadline_s:g} s after its reboot was asked for "
                f"({why}); last seen: {last}; look at its console"
            )
        sleep(min(pause, left))
        try:
            fresh = again()
        except Exception as error:  # anything may happen while a host is down
            last = printable(run.redact(str(error)))[:300]
            continue
        answered = fresh.run(_READ_BOOT_ID, timeout_s=10, limit=1000)
        found = answered.out.strip()
        if answered.ok and _BOOT_ID.fullmatch(found) and found != boot_id:
            break
        last = (
            f"boot_id unchanged ({boot_id})"
            if found == boot_id
            else f"boot_id could not be read ({answered.trouble or printable(answered.err)[:200]})"
        )
        fresh.close()
    note("booted; waiting for its services")
    settle = max(1, min(SETTLE_S, int(end - clock())))
    fresh.run(_SETTLE.format(limit=settle), timeout_s=settle + 10)
    run.event("reboot-done", host, boot_id=found)
    return fresh
