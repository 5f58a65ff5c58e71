"""This machine alone, without SSH and without root: the CPU build of torch, for a first look.

Everything lies in a folder of yours: $XDG_DATA_HOME/gpufleet, else ~/.local/share/gpufleet. The
system's own layers (driver, CUDA, services) are left out; `gpufleet plan` says so. Where pip finds
wheels by PIP_FIND_LINKS, this does too.

For root it is /srv/gpufleet: root's home is closed to others, and training, which never runs as
root where another user can, could not read the environment there.
"""

import os as _os
from pathlib import Path as _Path

_own = "/srv" if _os.geteuid() == 0 else str(_Path.home() / ".local" / "share")
_data = _os.environ.get("XDG_DATA_HOME") or _own

here = (
    ["@local"],
    {
        "privileged": False,
        "prefix": f"{_data.rstrip('/')}/gpufleet",
        "torch": "2.13.0",
        "torch_build": "cpu",
        "find_links": _os.environ.get("PIP_FIND_LINKS", "").split(),
    },
)
