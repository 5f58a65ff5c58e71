"""Every layer on every host, as the lock beside the inventory says. A pyinfra deploy:

    pyinfra --dry inventories/lab.py deploy/site.py      which hosts would change, and how
    pyinfra inventories/lab.py deploy/site.py            the same, then asks and changes them
    pyinfra -y --data gpufleet_reboot=yes inventories/lab.py deploy/site.py

Without `--data gpufleet_reboot=yes` nothing reboots. Runs, locks and results are those of
`gpufleet apply`, which also reports exit codes for busy and unreachable hosts.
"""

import sys
from pathlib import Path

if (root := str(Path(__file__).resolve().parent.parent)) not in sys.path:
    sys.path.insert(0, root)

from pyinfra import logger
from pyinfra.context import host

from deploy.native import converge_to_lock, decide, refuse

decided = decide(host)
for step in decided.steps:
    host.log(step)
if decided.work is not None:
    wanted, facts = decided.work
    converge_to_lock(name="Bring hosts to their locked stacks", wanted=wanted, facts=facts)
elif decided.refused:
    host.log(decided.refused, log_func=logger.error)
    refuse(name="Hosts that cannot be brought to their stacks", message=decided.refused)
else:
    host.noop("as locked")
