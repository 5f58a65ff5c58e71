"""Every check that there is, read from the check functions themselves."""

import importlib
from functools import cache
from pathlib import Path

from verify.checks import Check
from verify.judging.claims import CLAIMS, LOGIN
from verify.multi.claims import NODES


@cache
def catalogue() -> dict[str, Check]:
    """Id -> check, in the order of the files that hold them."""
    found = {one.id: one for one in (*CLAIMS, *NODES, LOGIN)}
    for path in sorted(Path(__file__).parent.parent.glob("test_*.py")):
        module = importlib.import_module(f"verify.{path.stem}")
        for function in vars(module).values():
            check = getattr(function, "check", None)
            if isinstance(check, Check):
                found[check.id] = check
    return found
