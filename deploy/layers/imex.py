"""IMEX at the driver's exact version, on trays of a multi-node NVLink domain (GB200, GB300).

The fabric manager runs on the domain's switches there, never on a tray. Which trays form a domain
is the site's to say, in /etc/nvidia-imex/nodes_config.cfg (or a scheduler's, which then starts
IMEX per job): it is only read. While it names nobody the service has nothing to connect and is not
started (IMEX guide, "Getting Started"; research: provisioning 2.8).
"""

from deploy.facts import NodeFacts
from deploy.known import known
from deploy.layers.library import service_step
from deploy.layers.services import running_step
from deploy.packages import difference
from deploy.steps import Step, Wanted

NAME = "imex"
UNIT = "nvidia-imex"
FAMILY = r"nvidia-imex(-\d+)?"
"""Every name that the package has had: the branch is part of some, as in nvidia-imex-570."""
NODES = "/etc/nvidia-imex/nodes_config.cfg"


def steps(wanted: Wanted, facts: NodeFacts) -> list[Step]:
    """Package, then the service where its domain is described."""
    imex, driver = wanted.stack.imex, wanted.stack.driver
    if imex is None or driver is None:
        return []
    lacks = difference(imex.packages, known(facts, "packages", facts.packages))
    runs = _described(facts)
    if not lacks:
        return running_step(NAME, UNIT, facts, driver) if runs else []
    package = service_step(NAME, "IMEX", UNIT, wanted, imex, lacks, facts, family=FAMILY)
    return [package, *(running_step(NAME, UNIT, facts, driver, will_stop=True) if runs else [])]


def _described(facts: NodeFacts) -> bool:
    return known(facts, "rdma", facts.rdma).imex_nodes > 0


def warnings(wanted: Wanted, facts: NodeFacts) -> list[str]:
    """A tray that is part of no domain, or that runs what only switches may."""
    if wanted.stack.imex is None:
        return []
    found = []
    if not _described(facts):
        found.append(
            f"{NODES} names no tray, so {UNIT} is not started: write the addresses of the NVLink "
            "domain's trays into it, one a line, then apply; leave it when a scheduler runs IMEX "
            "for each job"
        )
    manager = known(facts, "services", facts.services).get("nvidia-fabricmanager.service")
    if manager is not None and manager.load == "loaded" and manager.active != "inactive":
        found.append(
            f"nvidia-fabricmanager is {manager.active} on a tray of an NVLink domain, whose "
            "switches have their own: systemctl disable --now nvidia-fabricmanager"
        )
    return found
