"""Why there is no stack, before it is known for which host."""

from deploy.stack import Blocked


class Refused(Exception):  # noqa: N818 - an answer, not a fault
    """No stack. `rule` is one word for machines, `reason` the conflicting facts in one sentence,
    `unblock` what would change the answer."""

    def __init__(
        self, rule: str, reason: str, *, source: str, unblock: tuple[str, ...] = ()
    ) -> None:
        super().__init__(reason)
        self.rule = rule
        self.reason = reason
        self.source = source
        self.unblock = unblock

    def of(self, host: str, unblock: tuple[str, ...] | None = None) -> Blocked:
        """The same for one host; `unblock` stands for what was said, where it is given."""
        ways = self.unblock if unblock is None else unblock
        return Blocked(
            host=host,
            reason=self.reason,
            rule=self.rule,
            source=self.source,
            unblock=ways or (f"see what was found: gpufleet facts -w {host}",),
        )


def listed(items: list[str]) -> str:
    """ "a", "a and b", "a, b and c"."""
    return " and ".join(part for part in (", ".join(items[:-1]), *items[-1:]) if part)
