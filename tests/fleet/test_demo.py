"""The demo of this machine alone, played in a folder of its own, all but the training."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.demo.__main__ import Stage
from tests.demo.acts import LOCAL, PLACE, acts
from tests.sim import paths

pytestmark = pytest.mark.fleet


def test_the_demo_of_this_machine_alone(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Every command but the training proof, which other tests have: a removed wheel is found,
    named and mended, and nothing is written outside the folder."""
    (tmp_path / PLACE).mkdir(parents=True)
    (tmp_path / LOCAL).parent.mkdir()
    shutil.copy(paths.REPOSITORY / LOCAL, tmp_path / LOCAL)
    programme = [
        act
        for act in acts(LOCAL, tmp_path)
        if not any("--level standard" in command.line for command in act.commands)
    ]
    assert len(programme) == 6
    stage = Stage(tmp_path)
    for number, act in enumerate(programme, start=1):
        stage.play(act, number, len(programme))
    said = capfd.readouterr().out
    assert "left out, the inventory says privileged = False" in said
    assert "wheel networkx: env.wheels" in said
    assert "removed: networkx" in said
    assert (tmp_path / PLACE / "gpufleet/expected.json").exists()
    assert "exit 0: nothing failed, and all that was asked was looked at" in said
