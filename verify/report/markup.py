"""HTML that cannot be broken by what stands in it: text is escaped because it is text.

`tag` makes an element; its children are text (escaped, without what a browser would obey) unless
they are `Html`, which only this module makes.
"""

from collections.abc import Iterable
from html import escape

from deploy.fleet.runs import printable

_VOID = frozenset({"meta", "br"})


class Html(str):
    """Text that is markup already. Made by `tag` and `join` only."""

    __slots__ = ()


Child = str | Iterable["Child"] | None


def tag(name: str, /, *children: Child, **attributes: object) -> Html:
    """One element. `class_` is class, `data_gpu` is data-gpu; None leaves an attribute out and
    True gives it no value."""
    words = [name]
    for key, value in attributes.items():
        if value is None or value is False:
            continue
        name_ = key.rstrip("_").replace("_", "-")
        words.append(name_ if value is True else f'{name_}="{text(str(value))}"')
    opening = f"<{' '.join(words)}>"
    if name in _VOID:
        return Html(opening)
    return Html(f"{opening}{join(children)}</{name}>")


def join(children: Child) -> Html:
    """Children one after the other."""
    if children is None:
        return Html("")
    if isinstance(children, Html):
        return children
    if isinstance(children, str):
        return text(children)
    return Html("".join(join(child) for child in children))


def text(value: str) -> Html:
    """Text of anybody as markup that shows it."""
    return Html(escape(printable(value), quote=True))


def style(sheet: str) -> Html:
    """A style sheet of ours."""
    if "<" in sheet:
        raise AssertionError("a style sheet holds no markup")
    return Html(f"<style>{sheet}</style>")


def document(head: Html, body: Html) -> str:
    """A whole page."""
    return f'<!doctype html>\n<html lang="en"><head>{head}</head>\n<body>{body}</body></html>\n'
