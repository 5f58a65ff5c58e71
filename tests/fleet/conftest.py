"""Boots the fleet once for everything in this folder, and takes it down whatever happens.

Every test here is marked `fleet`. Each module begins with restored nodes; a test that needs its
own takes `pristine`. GPUFLEET_SIM_FLEET names another fleet, so that two runs do not share one;
GPUFLEET_SIM_KEEP=1 leaves it up afterwards.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.fleet.live import LiveFleet, sim
from tests.sim import proc

NAME = os.environ.get("GPUFLEET_SIM_FLEET", "tests")
HERE = Path(__file__).parent


def _why_not() -> str | None:
    """Return why there can be no simulated fleet here; None when there can."""
    if sys.platform != "linux":
        return "the simulated fleet needs Linux"
    if os.geteuid() == 0:
        return None
    try:
        asked = subprocess.run(["sudo", "-n", "true"], capture_output=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return "the simulated fleet needs root, and there is no sudo"
    return None if asked.returncode == 0 else "the simulated fleet needs root or passwordless sudo"


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    ours = [item for item in items if HERE in item.path.parents]
    reason = _why_not()
    for item in ours:
        item.add_marker(pytest.mark.fleet)
        if reason is not None:
            item.add_marker(pytest.mark.skip(reason=f"{reason} ({len(ours)} tests)"))


@contextmanager
def booted(name: str, profile: str) -> Iterator[LiveFleet]:
    """A fleet of this process alone, taken down at the end."""
    lock = Path(tempfile.gettempdir()) / f"gpufleet-sim-{name}.lock"
    if (descriptor := proc.take(lock)) is None:
        pytest.exit(
            f"process {proc.holder(lock)} is testing with fleet {name}; "
            "take another: GPUFLEET_SIM_FLEET=NAME",
            returncode=2,
        )
    try:
        sim("up", "--fleet", name, "--profile", profile, timeout=900).ok()
        yield LiveFleet(name)
    finally:
        if not os.environ.get("GPUFLEET_SIM_KEEP"):
            sim("down", "--fleet", name)
        lock.unlink(missing_ok=True)
        os.close(descriptor)


@pytest.fixture(scope="session")
def _booted() -> Iterator[LiveFleet]:
    with booted(NAME, "tests") as live:
        yield live


@pytest.fixture(scope="session")
def mixed() -> Iterator[LiveFleet]:
    """A second fleet, for the few modules about several systems: each restores what it uses."""
    with booted(f"{NAME}-mixed", "mixed") as live:
        yield live


@pytest.fixture(scope="module")
def fleet(_booted: LiveFleet) -> LiveFleet:
    """The fleet, its nodes as after their first boot when the module begins."""
    _booted.restore()
    return _booted


@pytest.fixture
def pristine(fleet: LiveFleet) -> LiveFleet:
    """The fleet, its nodes restored just before this test."""
    fleet.restore()
    return fleet
