"""Inventory keys that say how to reach a host: pyinfra's names, our grammar.

pyinfra takes any value and any key; a value that is wrong then fails late, on one host, in the
middle of a run. Here every key that we honour has a check, and one that we do not is refused.
"""

import ipaddress
import re
from collections.abc import Callable
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from deploy.fleet.errors import Fault

Check = Callable[[Any], str]
"""Says what was wanted, "" when the value is right."""

SECRETS = frozenset({"ssh_password", "ssh_key_password", "_sudo_password"})
"""Keys whose values appear in no message."""


def _matching(pattern: str, wanted: str) -> Check:
    def check(value: Any) -> str:
        right = isinstance(value, str) and re.fullmatch(pattern, value) is not None
        return "" if right else f"wanted {wanted}"

    return check


def _one_of(*words: str) -> Check:
    return lambda value: "" if value in words else f"wanted one of {', '.join(words)}"


def _flag(value: Any) -> str:
    return "" if isinstance(value, bool) else "wanted True or False"


def _whole(lowest: int, highest: int) -> Check:
    def check(value: Any) -> str:
        right = isinstance(value, int) and not isinstance(value, bool)
        return "" if right and lowest <= value <= highest else f"wanted {lowest} to {highest}"

    return check


def _seconds(value: Any) -> str:
    right = isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 60
    return "" if right else "wanted seconds, 0 to 60"


def _anything(value: Any) -> str:
    return ""


def _paramiko_arguments(value: Any) -> str:
    right = isinstance(value, dict) and all(isinstance(key, str) for key in value)
    return "" if right else "wanted a dict of paramiko's connect arguments"


def is_address(value: str) -> bool:
    """A host name (RFC 1123, underscores allowed), an IPv4 or an IPv6 address."""
    address, zone, interface = value.partition("%")
    try:
        ipaddress.ip_address(address)
        return not zone or re.fullmatch(r"[A-Za-z0-9._\-]{1,15}", interface) is not None
    except ValueError:
        return re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9._\-]{0,251}[A-Za-z0-9])?", value) is not None


def _address(value: Any) -> str:
    return "" if isinstance(value, str) and is_address(value) else "wanted a host name or address"


_file = _matching(r"[A-Za-z0-9_./~+=@%: \-]+", "a file name without shell metacharacters")
_secret = _matching(r"[^\x00-\x1f\x7f]{1,512}", "printable characters (value not shown)")

CHECKS: dict[str, Check] = {
    "ssh_hostname": _address,
    "ssh_port": _whole(1, 65535),
    "ssh_user": _matching(r"[A-Za-z_][A-Za-z0-9_.@+\-]{0,63}", "a login name"),
    "ssh_password": _secret,
    "ssh_key": _file,
    "ssh_key_password": _secret,
    "ssh_allow_agent": _flag,
    "ssh_look_for_keys": _flag,
    "ssh_forward_agent": _flag,
    "ssh_config_file": _file,
    "ssh_known_hosts_file": _file,
    "ssh_strict_host_key_checking": _one_of("yes", "accept-new", "no", "off"),
    "ssh_paramiko_connect_kwargs": _paramiko_arguments,
    "ssh_connect_retries": _whole(0, 10),
    "ssh_connect_retry_min_delay": _seconds,
    "ssh_connect_retry_max_delay": _seconds,
    "ssh_file_transfer_protocol": _one_of("sftp", "scp"),
    "chroot_directory": _file,
    "docker_identifier": _matching(r"[A-Za-z0-9][A-Za-z0-9._/:@\-]*", "an image or container"),
    "docker_platform": _matching(r"[a-z0-9/]+", "for example linux/amd64"),
    "docker_architecture": _matching(r"[a-z0-9]+", "for example amd64"),
    "fake_responses": _anything,
    "fake_delay": _seconds,
    "fake_delay_jitter": _seconds,
    "_sudo": _flag,
    "_sudo_password": _secret,
    "_doas": _flag,
}
"""Every connection key that has an effect. The names and meanings are pyinfra's: data_meta of its
connectors and its privilege arguments (pyinfra 3.10.0, pyinfra/connectors/ssh.py, docker.py,
fake.py and pyinfra/api/arguments.py, read 2026-11-22)."""


FILES = frozenset({"ssh_config_file", "ssh_key"})
"""Keys that name a file of this machine, which must be there before any host is asked."""


def is_connection_key(key: str) -> bool:
    """Whether a key belongs to pyinfra's part of the inventory, known or misspelt."""
    return key in CHECKS or key.startswith(("ssh_", "docker_", "chroot_", "fake_", "_"))


def connection_faults(host: str, data: dict[str, Any]) -> list[Fault]:
    """Everything wrong with the connection keys of one host."""
    faults = []
    for key, value in data.items():
        check = CHECKS.get(key)
        if check is None and key.startswith("_"):
            faults.append(
                Fault(host, key, "has no effect: root comes by _sudo, _sudo_password or _doas")
            )
        elif check is None:
            near = get_close_matches(key, CHECKS, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            faults.append(Fault(host, key, f"unknown connection key{hint}"))
        elif wanted := check(value):
            shown = "" if key in SECRETS else f"found {repr(value)[:60]}: "
            faults.append(Fault(host, key, shown + wanted))
        elif key in FILES and not Path(value).expanduser().is_file():
            faults.append(Fault(host, key, f"found {value!r}: there is no such file here"))
    if data.get("_sudo") is False and "_sudo_password" in data:
        faults.append(Fault(host, "_sudo_password", "has no use beside _sudo = False"))
    if data.get("_doas") and data.get("_sudo"):
        faults.append(Fault(host, "_doas", "found beside _sudo: wanted one of the two"))
    return faults
