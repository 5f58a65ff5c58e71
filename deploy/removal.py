"""Taking gpufleet's files off a host. The vendor's packages and the driver stay as they are.

Ours are: what carries `gpufleet` in its name in the folders that layers write to, /etc/gpufleet,
/var/lib/gpufleet, and the known folders below the prefix. A prefix may be a shared place, so it
is itself only removed when nothing is left in it. /run/gpufleet* goes with the next boot.
"""

import re
import shlex
from typing import TYPE_CHECKING

from deploy.fleet.runs import printable
from deploy.supervise import STATE

if TYPE_CHECKING:
    from deploy.fleet.transport import Connection

NAMED = (
    "/etc/apt",
    "/etc/modprobe.d",
    "/etc/profile.d",
    "/etc/systemd",
    "/usr/share/keyrings",
)
"""Where layers put files with `gpufleet` in their names. Not all of /etc: a sudoers rule or a
cron job of that name is the site's own."""
OWN = ("/etc/gpufleet", STATE)
BELOW_PREFIX = ("env", "envs", "tools", "cache", "python")
LOOK_S = 60
REMOVE_S = 1800
"""Seconds: environments are hundreds of thousands of files, and an initramfs may be rebuilt."""

_LOOK = """\
find {named} -xdev -name '*gpufleet*' -prune -print 2>/dev/null
for path in {own}; do
    if [ -e "$path" ] || [ -L "$path" ]; then printf '%s\\n' "$path"; fi
done
if [ -d {prefix} ] && [ -z "$(ls -A {prefix})" ]; then printf '%s\\n' {prefix}; fi
exit 0
"""

_REMOVE = """\
modules= units=
while IFS= read -r path; do
    case $path in
        /etc/systemd/system/*.service | /etc/systemd/system/*.timer)
            systemctl disable --now "${{path##*/}}" </dev/null ;;
    esac
    case $path in
        /etc/modprobe.d/*) modules=1 ;;
        /etc/systemd/*) units=1 ;;
    esac
    rm -rf --one-file-system -- "$path" || exit 1
done
if [ -d {prefix} ] && [ -z "$(ls -A {prefix})" ]; then rmdir {prefix}; fi
[ -z "$units" ] || systemctl daemon-reload || exit 1
[ -n "$modules" ] || exit 0
if command -v update-initramfs >/dev/null; then
    update-initramfs -u -k all </dev/null >&2 || exit 1
fi
if ! grep -rqsE '^[[:space:]]*blacklist[[:space:]]+nouveau' /etc/modprobe.d /run/modprobe.d \\
    /usr/local/lib/modprobe.d /usr/lib/modprobe.d /lib/modprobe.d; then
    echo "nothing keeps nouveau off the GPUs any more: it may take them at the next boot"
fi
"""

_PATH = re.compile(r"(/[A-Za-z0-9_.@:+\-]+)+")


class RemovalFailed(Exception):  # noqa: N818 - reads as what it is at every raise
    """What is there could not be read or taken away; the message says why."""


def look(connection: "Connection", prefix: str) -> list[str]:
    """Paths of ours on a host, sorted; [] when nothing is there. Raises RemovalFailed."""
    below = [f"{prefix}/{name}" for name in BELOW_PREFIX]
    script = _LOOK.format(
        named=" ".join(NAMED),
        own=" ".join(map(shlex.quote, [*OWN, *below])),
        prefix=shlex.quote(prefix),
    )
    result = connection.run(script, timeout_s=LOOK_S, root=True)
    if not result.ok:
        why = printable(result.trouble or result.err)[:300]
        raise RemovalFailed(f"{connection.host}: could not look for files of ours: {why}")
    paths = sorted(set(result.out.splitlines()))
    strange = [path for path in paths if not ours(path, prefix)]
    if strange:
        found = printable(repr(strange[0]))[:200]
        raise RemovalFailed(f"{connection.host}: found {found}, which is not removed by itself")
    return paths


def ours(path: str, prefix: str) -> bool:
    """Whether a path is one that removal may take away."""
    if not _PATH.fullmatch(path) or "/../" in f"{path}/" or "/./" in f"{path}/":
        return False
    if path in OWN or path == prefix or path in {f"{prefix}/{name}" for name in BELOW_PREFIX}:
        return True
    return path.startswith(tuple(f"{place}/" for place in NAMED)) and "gpufleet" in path


def remove(connection: "Connection", paths: list[str], prefix: str) -> str:
    """Take these paths away; a warning for the operator, or "". Raises RemovalFailed."""
    if not all(ours(path, prefix) for path in paths):
        raise AssertionError("asked to remove what is not ours")
    result = connection.run(
        _REMOVE.format(prefix=shlex.quote(prefix)),
        stdin="".join(f"{path}\n" for path in paths if path != prefix),
        timeout_s=REMOVE_S,
        root=True,
    )
    if not result.ok:
        why = printable(result.trouble or result.err.strip()[-300:] or f"exit {result.rc}")
        raise RemovalFailed(f"{connection.host}: not everything could be removed: {why}")
    return printable(result.out.strip())
