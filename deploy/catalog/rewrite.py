"""Enters edits into the data files as they are written: comments, order and layout stay."""

import tomllib
from typing import Any

import tomlkit
from tomlkit.items import Array, InlineTable

from deploy.catalog.difference import Edit, Row
from deploy.catalog.load import FILES, assemble
from deploy.catalog.models import Source

UNSAID = {"machine": "x86_64"}
"""What a row means that does not name a key."""


def rewritten(texts: dict[str, str], edits: list[tuple[Edit, str, Source]]) -> dict[str, str]:
    """The files that change (name without suffix -> new text), each edited row with its source.

    `edits`: what to enter, the key of its source and the source itself. Raises CatalogueError when
    the result would contradict itself, and nothing of it may be written then.
    """
    documents = {name: tomlkit.parse(texts[name]) for name in {edit.file for edit, _, _ in edits}}
    for edit, key, source in edits:
        document = documents[edit.file]
        table: Any = document
        for array, match in edit.path[:-1]:
            table = table[array][_place(table, array, match)]
        array, match = edit.path[-1]
        values = {**edit.values, "source": key}
        try:
            row = table[array][_place(table, array, match)]
        except LookupError:
            _append(table[array], _inline({**match, **values}))
        else:
            row.update(values)
        document["sources"][key] = _inline({"title": source.title, "date": source.date})
    changed = {name: tomlkit.dumps(document) for name, document in documents.items()}
    assemble({name: tomllib.loads(changed.get(name, texts[name])) for name in FILES})
    return {name: text for name, text in changed.items() if text != texts[name]}


def _place(table: Any, array: str, match: Row) -> int:
    """Where the row that holds `match` stands. Raises LookupError when there is none."""
    for place, row in enumerate(table[array]):
        if all(row.get(key, UNSAID.get(key)) == value for key, value in match.items()):
            return place
    raise LookupError(f"{array} has no row of {match}")


def _append(rows: Array, new: InlineTable) -> None:
    if "\n" in rows.as_string():
        rows.add_line(new, indent="  ", add_comma=True)
    else:
        rows.append(new)


def _inline(row: Row) -> InlineTable:
    """A row as the data files write theirs, with a space inside the braces."""
    content = ", ".join(f"{key} = {tomlkit.item(value).as_string()}" for key, value in row.items())
    table = tomlkit.value(f"{{ {content} }}")
    assert isinstance(table, InlineTable)
    return table
