"""The persistence daemon: the driver keeps its state while no process uses a GPU."""

from deploy.facts import NodeFacts
from deploy.layers.services import running_step
from deploy.steps import Step, Wanted

NAME = "persistence"
UNIT = "nvidia-persistenced"


def steps(wanted: Wanted, facts: NodeFacts) -> list[Step]:
    """Enabled and running wherever a driver is wanted, unless the inventory leaves it alone; its
    package is one of the driver's."""
    driver = wanted.stack.driver
    if driver is None or not wanted.spec.persistence:
        return []
    return running_step(NAME, UNIT, facts, driver)
