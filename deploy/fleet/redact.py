"""The one redactor: secrets of an inventory leave the controller on no output channel.

Everything that a run writes or prints about hosts (journal, raw logs, messages, exceptions)
passes through a `Redactor` that was made from the inventory's own values.
"""

import json
import re
import shlex
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import quote

MARK = "[redacted]"

_SECRET_KEY = re.compile(r"password|passwd|passphrase|secret|token|credential|private_key", re.I)
_CREDENTIALS = re.compile(r"(?<=://)[^\s/@:'\"]*:[^\s/@'\"]+(?=@)")
"""User and password inside an address, as a package client may echo it."""


def secrets_of(data: Mapping[str, Any]) -> set[str]:
    """Every secret value in one host's inventory data, nested mappings included.

    A value is secret when a word such as password or token is in the name of its key
    (`ssh_password`, `_sudo_password`, `ssh_key_password`, and those inside
    `ssh_paramiko_connect_kwargs`).
    """
    found: set[str] = set()
    for key, value in data.items():
        if isinstance(value, Mapping):
            found |= secrets_of(value)
        elif _SECRET_KEY.search(str(key)):
            # pyinfra's HiddenValue prints as asterisks; what may leak is what it hides.
            plain = value.unmask() if hasattr(value, "unmask") else value
            if isinstance(plain, str | bytes) and plain:
                found.add(plain.decode(errors="replace") if isinstance(plain, bytes) else plain)
    return found


def _spellings(secret: str) -> set[str]:
    """A secret as shells, JSON, Python and addresses would spell it."""
    lines = {secret, *(line for line in secret.splitlines() if len(line) >= 4)}
    spelt = set()
    for text in lines:
        spelt |= {
            text,
            shlex.quote(text),
            shlex.quote(text).strip("'"),
            json.dumps(text)[1:-1],
            json.dumps(text, ensure_ascii=False)[1:-1],
            repr(text)[1:-1],
            quote(text),
            quote(text, safe=""),
        }
    return spelt


class Redactor:
    """Replaces known secrets, and credentials inside addresses, by `[redacted]`."""

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        spelt = {text for secret in secrets if secret for text in _spellings(secret) if text}
        # Longest first: a secret that is a part of another one must not leave the rest behind.
        ordered = sorted(spelt, key=lambda text: (-len(text), text))
        self._secrets = re.compile("|".join(map(re.escape, ordered))) if ordered else None

    def __call__(self, text: str) -> str:
        if self._secrets is not None:
            text = self._secrets.sub(MARK, text)
        return _CREDENTIALS.sub(MARK, text) if "://" in text else text

    def within(self, value: Any) -> Any:
        """The same value with every string inside it redacted (keys of mappings too)."""
        if isinstance(value, str):
            return self(value)
        if isinstance(value, Mapping):
            return {self(str(key)): self.within(item) for key, item in value.items()}
        if isinstance(value, list | tuple | set | frozenset):
            return [self.within(item) for item in value]
        return value
