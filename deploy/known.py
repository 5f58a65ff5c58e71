"""A fact that could not be read must stop whoever needs it."""

from typing import TypeVar

from deploy.facts import NodeFacts

T = TypeVar("T")


class UnknownFact(Exception):  # noqa: N818 - it is no fault of the program
    """A layer needs a part of the facts that the probe could not read."""

    def __init__(self, part: str, why: str) -> None:
        self.part = part
        self.why = why
        super().__init__(f"{part} could not be read: {why}")


def known(facts: NodeFacts, part: str, value: T | None) -> T:
    """`value`, which is `facts.<part>`; raises `UnknownFact` when it is None."""
    if value is None:
        raise UnknownFact(part, facts.unknown.get(part, "the probe gives no reason"))
    return value
