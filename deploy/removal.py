"""Taking gpufleet's files off a host. The vendor's packages and the driver stay as they are.

Ours are: what carries `gpufleet` in its name in the folders that layers write to, /etc/gpufleet,
/var/lib/gpufleet, and the known names below the prefix; with `privileged = False` only these. A
prefix may be a shared place, so it is itself only removed when nothing is left in it. Of dnf's
list of locks only our own entries go. What stays is the vendor's key in rpm's own store and the
enabled module stream, which the vendor's packages go on needing. /run/gpufleet* goes with the next
boot.
"""

import re
import shlex
from typing import TYPE_CHECKING

from deploy.fleet.places import places
from deploy.fleet.runs import printable
from deploy.fleet.spec import NodeSpec
from deploy.probing.rpm_facts import BEGIN, END, LOCKS

if TYPE_CHECKING:
    from deploy.fleet.transport import Connection

NAMED = (
    "/etc/apt",
    "/etc/yum.repos.d",
    "/etc/pki/rpm-gpg",
    "/etc/dnf/plugins",
    "/etc/modprobe.d",
    "/etc/modules-load.d",
    "/etc/profile.d",
    "/etc/security/limits.d",
    "/etc/systemd",
    "/usr/share/keyrings",
)
"""Where layers put files with `gpufleet` in their names. Not all of /etc: a sudoers rule or a
cron job of that name is the site's own."""
BELOW_PREFIX = ("env", "envs", "tools", "cache", "python", "bundle")


def own(spec: NodeSpec) -> tuple[str, ...]:
    """Paths that are ours whole, the host lock last: it is held while the others go."""
    where = places(spec)
    below = tuple(f"{spec.prefix}/{name}" for name in BELOW_PREFIX)
    if where.root:
        return (where.expected.rpartition("/")[0], where.record, *below)
    # verify/own.py and verify/past.py write them
    kept = ("verified.json", "figures.json", "figures.candidate.json")
    verified = [f"{spec.prefix}/{name}" for name in kept]
    return (*below, where.expected, *verified, where.record, where.work, where.lock)


def called(path: str) -> str:
    """A path of `look` as people are told of it: of dnf's list of locks only our entries go."""
    return f"{path} (our entries)" if path == LOCKS else path


LOOK_S = 60
REMOVE_S = 1800
"""Seconds: environments are hundreds of thousands of files, and an initramfs may be rebuilt."""

_FIND_NAMED = f"find {' '.join(NAMED)} -xdev -name '*gpufleet*' -prune -print 2>/dev/null"
_LOOK = """\
{named}
{locks}
for path in {own}; do
    if [ -e "$path" ] || [ -L "$path" ]; then printf '%s\\n' "$path"; fi
done
if [ -d {prefix} ] && [ -z "$(ls -A {prefix})" ]; then printf '%s\\n' {prefix}; fi
exit 0
"""

_FIND_LOCKS = f"if grep -q '^{BEGIN}' {LOCKS} 2>/dev/null; then printf '%s\\n' {LOCKS}; fi"

_REMOVE = """\
modules= units=
unlock() {{ # our own entries, from the list that dnf keeps for everybody
    kept=$(mktemp "$1.gpufleet.XXXXXX") || return 1
    grep -q '^{end}' "$1" || return 1
    sed '/^{begin}/,/^{end}/d' "$1" >"$kept" && chmod 644 "$kept" && mv -fT "$kept" "$1"
}}
while IFS= read -r path; do
    case $path in
        /etc/systemd/system/*.service | /etc/systemd/system/*.timer)
            systemctl disable --now "${{path##*/}}" </dev/null ;;
    esac
    case $path in
        /etc/modprobe.d/*) modules=1 ;;
        /etc/systemd/*) units=1 ;;
    esac
    if [ "$path" = {locks} ]; then
        unlock "$path" || exit 1
        continue
    fi
    rm -rf --one-file-system -- "$path" || exit 1
done
if [ -d {prefix} ] && [ -z "$(ls -A {prefix})" ]; then rmdir {prefix}; fi
[ -z "$units" ] || systemctl daemon-reload || exit 1
[ -n "$modules" ] || exit 0
if command -v update-initramfs >/dev/null; then
    update-initramfs -u -k all </dev/null >&2 || exit 1
elif command -v dracut >/dev/null; then
    dracut --force --regenerate-all </dev/null >&2 || exit 1
fi
if ! grep -rqsE '^[[:space:]]*blacklist[[:space:]]+nouveau' /etc/modprobe.d /run/modprobe.d \\
    /usr/local/lib/modprobe.d /usr/lib/modprobe.d /lib/modprobe.d; then
    echo "nothing keeps nouveau off the GPUs any more: it may take them at the next boot"
fi
"""

_PATH = re.compile(r"(/[A-Za-z0-9_.@:+\-]+)+")


class RemovalFailed(Exception):  # noqa: N818 - reads as what it is at every raise
    """What is there could not be read or taken away; the message says why."""


def look(connection: "Connection", spec: NodeSpec) -> list[str]:
    """Paths of ours on a host, sorted; [] when nothing is there. Raises RemovalFailed."""
    root = places(spec).root
    script = _LOOK.format(
        named=_FIND_NAMED if root else "",
        locks=_FIND_LOCKS if root else "",
        own=" ".join(map(shlex.quote, own(spec))),
        prefix=shlex.quote(spec.prefix),
    )
    result = connection.run(script, timeout_s=LOOK_S, root=root)
    if not result.ok:
        why = printable(result.trouble or result.err)[:300]
        raise RemovalFailed(f"{connection.host}: could not look for files of ours: {why}")
    paths = sorted(set(result.out.splitlines()))
    strange = [path for path in paths if not ours(path, spec)]
    if strange:
        found = printable(repr(strange[0]))[:200]
        raise RemovalFailed(f"{connection.host}: found {found}, which is not removed by itself")
    return paths


def ours(path: str, spec: NodeSpec) -> bool:
    """Whether a path is one that removal may take away."""
    if not _PATH.fullmatch(path) or "/../" in f"{path}/" or "/./" in f"{path}/":
        return False
    if path == spec.prefix or path in own(spec):
        return True
    if path == LOCKS:
        return spec.privileged
    return (
        spec.privileged
        and path.startswith(tuple(f"{place}/" for place in NAMED))
        and "gpufleet" in path
    )


def remove(connection: "Connection", paths: list[str], spec: NodeSpec) -> str:
    """Take these paths away; a warning for the operator, or "". Raises RemovalFailed."""
    if not all(ours(path, spec) for path in paths):
        raise AssertionError("asked to remove what is not ours")
    where = places(spec)
    going = sorted((path for path in paths if path != spec.prefix), key=where.lock.__eq__)
    result = connection.run(
        _REMOVE.format(prefix=shlex.quote(spec.prefix), locks=LOCKS, begin=BEGIN, end=END),
        stdin="".join(f"{path}\n" for path in going),
        timeout_s=REMOVE_S,
        root=where.root,
    )
    if not result.ok:
        why = printable(result.trouble or result.err.strip()[-300:] or f"exit {result.rc}")
        raise RemovalFailed(f"{connection.host}: not everything could be removed: {why}")
    return printable(result.out.strip())
