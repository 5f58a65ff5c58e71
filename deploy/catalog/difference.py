"""A difference between a vendor's file and the catalogue, and the edit that would settle it."""

from dataclasses import dataclass
from typing import Any

Row = dict[str, Any]


@dataclass(frozen=True)
class Edit:
    """One row to change, or to append where there is none yet."""

    file: str
    path: tuple[tuple[str, Row], ...]
    """Name of an array and what its row holds, from the outermost one inwards."""
    values: Row


@dataclass(frozen=True)
class Difference:
    """One line for people; without an edit it is theirs to enter, and the line says why."""

    words: str
    edit: Edit | None = None
