"""What a user can cause, said once and wholly."""

from dataclasses import dataclass


@dataclass(frozen=True, order=True)
class Fault:
    """One thing that is wrong with an input on the controller.

    `where` is a host name, a file or an option; `key` the setting in it ("" when the fault is
    of the whole); `message` says what was found, what is wanted and what to do.
    """

    where: str
    key: str
    message: str

    def __str__(self) -> str:
        return (
            f"{self.where}: {self.key}: {self.message}"
            if self.key
            else (f"{self.where}: {self.message}")
        )


class WrongInput(ValueError):  # noqa: N818 - reads as what it is at every raise
    """Inventory, lock or options are wrong: nothing was run, exit code 2.

    Carries every fault found, not the first one, so that one edit can mend them all.
    """

    def __init__(self, faults: list[Fault]) -> None:
        if not faults:
            raise AssertionError("WrongInput needs at least one fault")
        self.faults = sorted(set(faults))
        super().__init__("\n".join(str(fault) for fault in self.faults))
