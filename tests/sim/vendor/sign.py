"""sign.py KEY SIGNATURE FILE|- [--armor]: a detached signature; rpmsign calls it in gpg's place."""

from __future__ import annotations

import sys
from pathlib import Path

from pysequoia import SignatureMode, Tsk, sign

key = Tsk.from_bytes(Path(sys.argv[1]).read_bytes())
data = sys.stdin.buffer.read() if sys.argv[3] == "-" else Path(sys.argv[3]).read_bytes()
armor = "--armor" in sys.argv
made = sign(key.signer(), data, mode=SignatureMode.DETACHED, armor=armor)
Path(sys.argv[2]).write_bytes(made)
