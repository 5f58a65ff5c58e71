"""Record what the probe really prints: `python -m tests.capture NAME HOST [SSH_CONFIG] [USER]`.

Writes tests/data/probe/NAME.txt. Only three things are replaced: the random frame word by NONCE,
the name of the package mirror that this machine happens to use by mirror.example, and the release
of its kernel by KERNEL.
"""

import os
import re
import sys
from pathlib import Path

from gevent import monkey

monkey.patch_all()

from deploy.fleet.inventory import named_hosts  # noqa: E402
from deploy.fleet.spec import NodeSpec  # noqa: E402
from deploy.fleet.transport import connect  # noqa: E402
from deploy.probing.probe import new_nonce, script  # noqa: E402

NONCE = "gpufleet-00112233aabbccdd"
PLACE = Path(__file__).parent / "data" / "probe"
MIRROR = "mirror.example"
KERNEL = "6.1.0-31-amd64"


def record(host: str, ssh_config: str = "", user: str = "") -> str:
    """The probe's answer of one host, made ready to be kept."""
    data = {"ssh_config_file": ssh_config, "ssh_user": user}
    fleet = named_hosts(host, {key: value for key, value in data.items() if value})
    connection = connect(fleet.hosts[host])
    nonce = new_nonce()
    result = connection.run_script(script(nonce, NodeSpec()), timeout_s=25)
    connection.close()
    assert not result.trouble, result.trouble
    names = set(re.findall(r"https?://([a-z0-9.-]+)/debian", result.out))
    text = result.out.replace(nonce, NONCE).replace(os.uname().release, KERNEL)
    for name in names:
        text = text.replace(name, MIRROR)
    return text


if __name__ == "__main__":
    (PLACE / f"{sys.argv[1]}.txt").write_text(record(*sys.argv[2:]))
