"""What `pip check` would say of an environment, as one line `GPUFLEET {json}`.

Run by the environment's Python. Environments that uv makes hold no pip, and another pip would
judge by its own rules; so the same question is answered here from the metadata of the installed
distributions, by the `packaging` that travels with the bundle: each requirement that applies here
must be there in a version that it allows.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import sys
import sysconfig
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve()
LIBRARIES = HERE.parents[2] / "lib"
MARK = "GPUFLEET "
MOST = 200
"""Problems that are listed."""


def report() -> dict[str, Any]:
    """Problems in pip's words; state failed when the question could not be answered."""
    places = list(dict.fromkeys(sysconfig.get_paths()[key] for key in ("purelib", "platlib")))
    sys.path[:] = [place for place in sys.path if place != str(HERE.parent)]
    if LIBRARIES.is_dir():
        sys.path.insert(0, str(LIBRARIES))
    try:
        from packaging.requirements import InvalidRequirement, Requirement
        from packaging.utils import canonicalize_name
    except ImportError as error:
        return {"state": "failed", "problems": [], "error": f"no packaging here: {error}"}
    os.write(2, b"stage: metadata\n")
    have: dict[str, str] = {}
    needs: list[tuple[str, str, list[str]]] = []
    problems = []
    for one in importlib.metadata.distributions(path=places):
        name = one.metadata["Name"]
        if not name or not one.version:
            problems.append(f"{getattr(one, '_path', 'a distribution')} has no usable metadata")
            continue
        have.setdefault(canonicalize_name(name), one.version)
        needs.append((name, one.version, one.requires or []))
    if not have:
        return {"state": "failed", "problems": [], "error": f"nothing installed in {places}"}
    for name, version, requirements in sorted(needs):
        for text in requirements:
            try:
                need = Requirement(text)
            except InvalidRequirement:
                problems.append(f"{name} {version} has a requirement nobody can read: {text}")
                continue
            if need.marker is not None and not need.marker.evaluate({"extra": ""}):
                continue
            there = have.get(canonicalize_name(need.name))
            if there is None:
                problems.append(f"{name} {version} requires {need.name}, which is not installed.")
            elif not need.specifier.contains(there, prereleases=True):
                problems.append(
                    f"{name} {version} has requirement {text}, but you have {need.name} {there}."
                )
    return {"state": "ok", "problems": [said[:300] for said in problems[:MOST]], "error": ""}


if __name__ == "__main__":
    print(MARK + json.dumps({"schema": 1, **report()}, separators=(",", ":")), flush=True)
