"""A user without root on a real node: apply twice, remove; and what the plan asks for."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fleet.live import LiveFleet
from tests.fleet.test_apply import Lab, status

pytestmark = pytest.mark.fleet

NODE = "cpu-01"
PREFIX = "/home/ops/.local/share/gpufleet"
WISH = {"torch": "2.13.0", "torch_build": "cpu"}
WITHOUT_ROOT = {
    **WISH,
    **{"privileged": False, "prefix": PREFIX},
    **{"vendor_repository": None, "vendor_key_fingerprint": None},
}
OUTSIDE = (
    "find / -xdev \\( -path /proc -o -path /sys -o -path /run -o -path /tmp -o -path /var/log "
    f"-o -path {PREFIX} \\) -prune -o -type f -path '*gpufleet*' -print"
)


@pytest.fixture
def lab(pristine: LiveFleet, tmp_path: Path) -> Iterator[Lab]:
    """User ops of a node without a way to become root."""
    pristine.root(NODE, "rm /etc/sudoers.d/ops").ok()
    yield Lab(pristine, tmp_path, {NODE: WITHOUT_ROOT})
    pristine.restore(NODE)


def test_the_environment_alone_in_the_users_own_directory(lab: Lab) -> None:
    lab.fleet.root(NODE, "mv /usr/lib/python3.11/ensurepip /root").ok()
    blocked = lab.gpufleet("plan", "lab.py")
    assert blocked.status == 1, status(blocked)
    assert "an administrator of cpu-01 for: sudo apt-get install python3-venv" in blocked.out
    lab.fleet.root(NODE, "mv /root/ensurepip /usr/lib/python3.11").ok()

    before = lab.fleet.root(NODE, OUTSIDE).ok()
    first = lab.gpufleet("apply", "lab.py", "--yes")
    assert first.status == 0, status(first)
    assert "left out, the inventory says privileged = False" in first.out
    assert "3 changes; 1 converged" in first.out
    second = lab.gpufleet("apply", "lab.py", "--yes")
    assert second.status == 0, status(second)
    assert "0 changes; 1 unchanged" in second.out
    assert lab.fleet.root(NODE, OUTSIDE).ok() == before
    owners = lab.fleet.root(NODE, f"find {PREFIX} ! -user ops").ok()
    assert owners == ""

    gone = lab.gpufleet("remove", "lab.py", "--yes")
    assert gone.status == 0, status(gone)
    assert lab.fleet.root(NODE, f"ls -d {PREFIX} || :").out == ""
    assert "0 changes" in lab.gpufleet("remove", "lab.py", "--yes").ok()


def test_root_that_is_refused_names_the_way_without(lab: Lab) -> None:
    lab.wish({NODE: WISH})
    done = lab.gpufleet("apply", "lab.py", "--yes")
    assert done.status == 1, status(done)
    assert "ops could not become root" in done.out
    assert "set privileged = False" in done.out
