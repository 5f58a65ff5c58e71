"""Files of ours on a host: compared by digest, written whole or not at all.

Every file of ours outside the prefix, /etc/gpufleet and /var/lib/gpufleet has `gpufleet` in its
name, so that the probe sees each one and `gpufleet remove` can take each one away.
"""

import hashlib
from pathlib import PurePosixPath

from deploy.facts import NodeFacts
from deploy.known import known
from deploy.shell import assign, script
from deploy.steps import Command, Step

UNFINISHED = "600"
"""Mode of a file whose follow-up command has not succeeded yet."""

_WRITE = """\
folder=${path%/*}
mkdir -p -m 755 "$folder"
new=$(mktemp "$folder/.gpufleet.XXXXXX")
trap 'rm -f "$new"' EXIT
trap 'exit 143' HUP INT TERM
cat >"$new"
found=$(sha256sum <"$new")
if [ "${found%% *}" != "$digest" ]; then
    echo "$path: its new content did not arrive whole; the old file stays" >&2
    exit 1
fi
chmod "$first" "$new"
[ "$(id -u)" != 0 ] || chown 0:0 "$new"
sync "$new"
mv -fT "$new" "$path"
"""


def digest(content: str) -> str:
    """Sha-256 of a file's content, as the probe reports it."""
    return hashlib.sha256(content.encode()).hexdigest()


def write_file(path: str, content: str, *, mode: str = "644", then: str = "") -> Command:
    """Write `content` to `path`, by rename, checked for having arrived whole.

    `then` is shell text that must have succeeded before the file counts as in place. The file
    carries mode 600 until it has, so that a run which was cut off between the two is seen in the
    facts and repeated.
    """
    lines = [assign(path=path, digest=digest(content), first=UNFINISHED if then else mode), _WRITE]
    if then:
        lines += [then, f'chmod {mode} "$path"']
    return Command(shell=script(*lines), stdin=content, timeout_s=600 if then else 60)


def in_place(facts: NodeFacts, path: str, content: str, mode: str = "644") -> bool:
    """The host has this file with this content and mode."""
    file = known(facts, "files", facts.files).get(path)
    return file is not None and file.sha256 == digest(content) and file.mode == mode


def file_step(
    layer: str,
    title: str,
    facts: NodeFacts,
    path: str,
    content: str,
    *,
    mode: str = "644",
    then: str = "",
    disruptive: bool = False,
) -> list[Step]:
    """The step that writes one file of ours, or nothing when it is in place."""
    if in_place(facts, path, content, mode):
        return []
    file = known(facts, "files", facts.files).get(path)
    if file is None:
        why = f"{path} does not exist"
    elif file.sha256 != digest(content):
        why = f"{path} has other content than wanted"
    elif file.mode == UNFINISHED and then:
        why = f"{path} was written, but what it needs to take effect did not finish"
    else:
        why = f"{path} has mode {file.mode}, wanted {mode}"
    command = write_file(path, content, mode=mode, then=then)
    return [Step(layer=layer, title=title, why=why, commands=(command,), disruptive=disruptive)]


def remove_file(path: str) -> Command:
    """Take one file of ours away; nothing when it is gone."""
    if "gpufleet" not in str(PurePosixPath(path)):
        raise AssertionError(f"{path} is not ours to remove")
    return Command(shell=script(assign(path=path), 'rm -f -- "$path"'), timeout_s=60)
