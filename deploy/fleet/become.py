"""How a command reaches a host's shell unharmed, and how it becomes root there."""

import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

ENVIRONMENT = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
"""sshd gives root a path without sbin on many systems, and sudo's secure_path differs by site."""


REFUSALS = ("sudo: ", "doas: ", "Sorry, user ")
"""How sudo and doas begin a line that says why somebody does not become root."""


@dataclass(frozen=True)
class Wrapped:
    """A command line for the login shell, and what precedes the command's own input."""

    line: str
    head: bytes
    """Sent first: the command itself."""
    password: str = ""
    prompt: bytes = b""
    """sudo's question, with a random word; answered once with the password."""
    ready: bytes = b""
    """Printed on stderr once the command runs; only then may input flow."""


def wrap(command: str, *, root: bool, data: Mapping[str, Any]) -> Wrapped:
    """Make a command line that means the same in sh, bash, csh and fish.

    Login shells differ in how they read backslashes, newlines and exclamation marks inside
    quotes, so the command travels on standard input (read byte by byte, so that the command's own
    input stays untouched) and the line itself is fixed text. It also keeps the command out of the
    host's process list and free of its limit on argument length.
    """
    # Braces: the shell reads a group to its end before it runs any of it, so a command that a
    # broken connection cut short is a syntax error and never half of itself.
    head = f"{{\n{command}\n}}".encode()
    run = f'eval "$(dd bs=1 count={len(head)} 2>/dev/null)"'
    if not root:
        return Wrapped(f"sh -c '{ENVIRONMENT}; export PATH; {run}'", head)
    run = f"umask 022; {ENVIRONMENT}; export PATH; {run}"
    prefix = root_prefix(data)
    password = str(data.get("_sudo_password", ""))
    if not password or not prefix.startswith("sudo"):
        return Wrapped(f"{prefix}sh -c '{run}'", head)
    word = secrets.token_hex(8)
    line = f"sudo -H -k -S -p ask-{word} sh -c 'echo run-{word} >&2; {run}'"
    return Wrapped(line, head, password, f"ask-{word}".encode(), f"run-{word}\n".encode())


def root_prefix(data: Mapping[str, Any]) -> str:
    """What becomes root without asking: sudo, or doas where the inventory says so."""
    if data.get("_doas"):
        return "doas -n "
    return "" if data.get("_sudo") is False else "sudo -n -H "


def refused(error: str, user: str) -> str:
    """What a failed attempt to become root means, "" when stderr does not tell of one.

    sudo and doas speak the host's language, but most of their lines begin with their own name.
    """
    for line in reversed(error.strip().splitlines()[-3:]):
        if line.startswith(REFUSALS) or "sudo: command not found" in line:
            return (
                f"{user} could not become root ({line.strip()[:200]}): let {user} use sudo without "
                "a password, or give _sudo_password in the inventory; or set privileged = False "
                f"there: no root, only the Python environment in a prefix of {user}'s own"
            )
    return ""
