"""The simulated fleet that `python -m tests.sim up` boots: real Debian hosts, simulated GPUs.

Names, addresses and the key of the simulated vendor repository are made on your machine, so this
inventory reads what `up` has written. GPUFLEET_SIM_FLEET names another fleet than `demo`.
"""

import json as _json
import os as _os
from pathlib import Path as _Path

_cache = _Path(_os.environ.get("XDG_CACHE_HOME") or _Path.home() / ".cache")
_here = _cache / "gpufleet" / "sim" / "fleets" / _os.environ.get("GPUFLEET_SIM_FLEET", "demo")
if not (_here / "fleet.json").exists():
    raise SystemExit(f"no simulated fleet at {_here}: run `python -m tests.sim up` first")
_fleet = _json.loads((_here / "fleet.json").read_text())


def _repository(system):
    """The simulated vendor's repository for one system: debian12, ubuntu2404 or rhel9."""
    return {
        "vendor_repository": _fleet["vendor_urls"][system],
        "vendor_key_fingerprint": _fleet["vendor_key_fingerprints"][system],
    }


simulated = (
    [(name, _repository(node["system"])) for name, node in sorted(_fleet["nodes"].items())],
    {
        "ssh_config_file": str(_here / "ssh_config"),
        "ssh_known_hosts_file": str(_here / "known_hosts"),
        "torch_index": _fleet["wheels_by_build_url"] + "/cpu",
        # The hosts have no GPU that could run the CUDA build; the plan shows what it would be.
        "torch": "2.13.0",
        "torch_build": "cpu",
        # The hosts are containers: no limit of theirs can be raised above this machine's own.
        "thresholds": {"train.memlock-mib": 8},
    },
)
