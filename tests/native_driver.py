"""pyinfra's own command over directory hosts: only the ways in and out of hosts are exchanged.

Run as `python -m tests.native_driver FOLDER [pyinfra's arguments]`.
"""

import sys
from pathlib import Path
from typing import Any


class _Lock:
    digest = "d1gest"

    def __init__(self, stale: bool) -> None:
        self.stale = stale


def install(folder: Path) -> None:
    """Hosts named @fake/NAME are the directories below `folder`."""
    import deploy.commands.plan
    import deploy.engine.converge
    import deploy.engine.reboot
    import deploy.engine.supervise
    import deploy.native
    from deploy.fleet.errors import Fault, WrongInput
    from deploy.stack import Solution
    from tests import staged
    from tests.localhost import LocalConnection, LocalHost

    def adopt(host: Any) -> LocalConnection:
        name = str(host.name)
        return LocalHost(folder / name.removeprefix("@fake/"), name).connect()

    def answers(fleet: Any, found: Any, lock: Any) -> dict[str, Solution]:
        if lock.stale:
            raise WrongInput([Fault(name, "", "its wishes changed") for name in fleet.hosts])
        return {
            name: Solution(host=name, stack=staged.STACK, blocked=None, reasons=(), warnings=())
            for name in fleet.hosts
        }

    def read_lock(path: Path) -> _Lock | None:
        return _Lock("stale" in path.read_text()) if path.exists() else None

    deploy.native.adopt_pyinfra = adopt  # type: ignore[assignment]
    deploy.native._again = adopt  # type: ignore[assignment]
    deploy.native.answers = answers  # type: ignore[assignment]
    deploy.native.read_lock = read_lock  # type: ignore[assignment]
    deploy.native.probe = staged.probe
    deploy.commands.plan.plan_host = staged.plan_host
    deploy.engine.converge.probe = staged.probe
    deploy.engine.converge.plan_host = staged.plan_host
    deploy.engine.converge.reboot_due = staged.reboot_due
    deploy.engine.reboot.POLL_S = (0.02, 0.05)
    deploy.engine.supervise.WATCH_S = 0.01


if __name__ == "__main__":
    from pyinfra_cli.main import main  # first of all: its package patches for gevent

    install(Path(sys.argv.pop(1)))
    main()
