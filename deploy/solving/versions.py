"""The order of package versions, and the vendor's number in them.

Debian's order is python-debian's, rpm's is univers'.
"""

from collections.abc import Callable
from functools import cmp_to_key, lru_cache
from typing import Any, get_args

from debian.debian_support import NativeVersion, version_compare
from univers.rpm import compare_rpm_versions

from deploy.stack import Packaging


@lru_cache(maxsize=200_000)
def compare(first: str, second: str, packaging: Packaging = "apt") -> int:
    """The order of a package system: negative, zero or positive. Both are `epoch:version-release`
    with a numeric epoch or none. Where one of two rpm versions names no release, any release fits
    it, as in rpm's own dependencies."""
    if packaging == "apt":
        return int(version_compare(first, second))
    if "-" not in first or "-" not in second:
        first, second = first.partition("-")[0], second.partition("-")[0]
    return int(compare_rpm_versions(first, second))


def _newest_first(packaging: Packaging) -> Callable[[str], Any]:
    return cmp_to_key(lambda one, other: compare(other, one, packaging))


NEWEST_FIRST = {packaging: _newest_first(packaging) for packaging in get_args(Packaging)}
"""Sort keys for full versions, by package system."""


@lru_cache(maxsize=100_000)
def upstream(version: str) -> str:
    """The vendor's number in a package version: 580.178.04 of 580.178.04-1 and of
    3:580.178.04-1.el9; "" when it is no version."""
    try:
        return str(NativeVersion(version).upstream_version)
    except ValueError:
        return ""


def matches(version: str, wish: str) -> bool:
    """Whether a version is the wished one or of the wished branch: 580 matches 580.178.04."""
    return version == wish or version.startswith(wish + ".")
