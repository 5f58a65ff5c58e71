"""The user's OpenSSH configuration, for pyinfra's connector: OpenSSH's defaults, and fast.

Takes the place of pyinfra's own reader (deploy.fleet.reach). pyinfra reads one file only, asks on
the terminal about a jump host's unknown key, and paramiko walks every block twice for each host and
asks for the user's name at each: 20 to 50 ms of CPU per host with a block per host for 1000 hosts
(paramiko 4.0.0, measured 2026-11-22). What the connector cannot do at all stays undone:
KexAlgorithms, HostKeyAlias, ControlMaster and host certificates have no effect.
"""

import os
from functools import cache
from pathlib import Path
from typing import Any

from paramiko import SSHConfig
from pyinfra.connectors.sshuserclient.config import SSHConfig as Including

USER = "~/.ssh/config"
SYSTEM = "/etc/ssh/ssh_config"
"""Read after the user's file, as ssh does when no other file is named (ssh_config(5))."""
USER_KNOWN_HOSTS = ("~/.ssh/known_hosts", "~/.ssh/known_hosts2")
SYSTEM_KNOWN_HOSTS = ("/etc/ssh/ssh_known_hosts", "/etc/ssh/ssh_known_hosts2")
WILD = frozenset("*?!")


class Indexed:
    """Blocks of one configuration; those for plain names are found by name."""

    def __init__(self, blocks: list[Any]) -> None:
        self._blocks = blocks
        self._found: dict[str, dict[str, Any]] = {}
        self._by_name: dict[str, list[int]] = {}
        self._general: list[int] = []
        for index, block in enumerate(blocks):
            patterns = block.get("host") or []
            if patterns and not any(WILD & set(pattern) for pattern in patterns):
                for pattern in patterns:
                    self._by_name.setdefault(pattern, []).append(index)
            else:
                self._general.append(index)

    def lookup(self, name: str) -> dict[str, Any]:
        """What holds for a host, keys in lower case; unknown host keys are refused unless the
        configuration says otherwise, and the system's known hosts count."""
        if name not in self._found:
            self._found[name] = self._look_up(name)
        return dict(self._found[name])

    def _look_up(self, name: str) -> dict[str, Any]:
        few: Any = SSHConfig()
        indices = sorted({*self._general, *self._by_name.get(name, ())})
        few._config = [self._blocks[index] for index in indices]
        found: dict[str, Any] = few.lookup(name)
        found.setdefault("stricthostkeychecking", "yes")
        user = found.get("userknownhostsfile", " ".join(USER_KNOWN_HOSTS))
        system = found.get("globalknownhostsfile", " ".join(SYSTEM_KNOWN_HOSTS))
        files = [os.path.expanduser(file) for file in f"{user} {system}".split()]
        found["userknownhostsfile"] = " ".join(files)
        return found


@cache
def ssh_config(path: str | None = None) -> Indexed:
    """The configuration in `path`, or that of the user and the system as ssh combines them.

    Raises paramiko.ConfigParseError or OSError when the named file cannot be read; a system file
    that paramiko cannot parse is left out.
    """
    if path is not None:
        return Indexed(_blocks(Path(path).expanduser()))
    blocks = _blocks(Path(USER).expanduser()) if Path(USER).expanduser().exists() else []
    try:
        return Indexed(blocks + _blocks(Path(SYSTEM)))
    except Exception:  # paramiko raises what it likes on Match blocks that it does not know
        return Indexed(blocks)


def _blocks(path: Path) -> list[Any]:
    parsed: Any = Including()
    with path.open(encoding="utf-8") as file:
        parsed.parse(file)
    blocks: list[Any] = parsed._config
    return blocks


def jump_of(path: str | None, name: str) -> str:
    """The host or command that a connection goes through, "" when it goes straight."""
    found = ssh_config(path).lookup(name)
    return str(found.get("proxyjump") or found.get("proxycommand") or "")
