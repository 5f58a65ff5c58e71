"""Versions of rpm packages: `epoch:version-release`, the epoch left out when it is 0."""

import re

GRAMMAR = re.compile(r"(\d+:)?[A-Za-z0-9._+~^]+-[A-Za-z0-9._+~^]+")
"""A full version (rpm's own lib/rpmvercmp and build checks allow these characters)."""


def evr(text: str) -> str:
    """A full version as we write it. Raises ValueError for what is none."""
    if not GRAMMAR.fullmatch(text):
        raise ValueError(f"{text[:60]!r} is no version of an rpm")
    return text.removeprefix("0:")
