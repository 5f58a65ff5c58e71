"""A host as a model: facts that commands change."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from typing import Any

from deploy.facts import NodeFacts
from tests.golden.scripts import Parts, parts


class Refused(Exception):  # noqa: N818 - what a package manager would answer
    """The host would end this command with an error."""


class Machine:
    """One host; `facts` are what a probe would find now."""

    def __init__(self, facts: NodeFacts, effects: Effects, words: Effects) -> None:
        self.facts = facts
        self._effects, self._words = effects, words

    def run(self, shell: str, stdin: str) -> None:
        """Do what the command does. Raises Refused, or AssertionError when it is unknown."""
        found = parts(shell)
        done = [effect for name, effect in self._effects.items() if name in found.names]
        done += [effect for words, effect in self._words.items() if words in found.text]
        assert done, f"no effect is known of:\n{found.text}"
        for effect in done:
            effect(self, found, stdin)
        self._records(found)

    def change(self, **values: Any) -> None:
        self.facts = self.facts.model_copy(update=values)

    def _records(self, found: Parts) -> None:
        """Lines `record KEY VALUE` outside the fixed texts, each with its assignment before it."""
        state = dict(self.facts.state or {})
        value = ""
        for line in found.text.splitlines():
            if line.startswith("value="):
                value = "".join(shlex.split(line.removeprefix("value=")))
            elif words := re.fullmatch(r"record ([a-z_]+) (\"\$value\"|''|.*)", line):
                if words[2] == '"$value"' and value:
                    state[words[1]] = value
                else:  # '' or a debt that is settled before the command ends
                    state.pop(words[1], None)
        self.change(state=state)


Effect = Callable[[Machine, Parts, str], None]
"""What a command with these parts and this input does to a host."""
Effects = dict[str, Effect]
