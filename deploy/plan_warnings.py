"""What an operator should know before a plan is applied; nothing here stops it. Pure."""

from deploy import hazards, unprivileged
from deploy.facts import NodeFacts
from deploy.known import known
from deploy.layers import container_toolkit, driver, expected, imex, rdma, repository, setting_rules
from deploy.packages import locked, upstream
from deploy.plan_blocks import parent
from deploy.steps import Step, Wanted


def warnings(wanted: Wanted, facts: NodeFacts, steps: list[Step]) -> list[str]:
    """Every warning of one host, the layers' own included."""
    stack, found = wanted.stack, unprivileged.warnings(wanted, facts)
    if stack.repository is not None:
        found += [
            f"{source.path} configures the vendor's repository too; it is used as it is, and its "
            "own key decides what is trusted"
            for source in repository.same_repository(facts, stack.repository.url)
        ]
    seen, wish = expected.seen_gpus(facts), expected.expected_gpus(wanted, facts)
    if seen != wish:
        found.append(
            f"{seen} GPUs on the PCI bus, {wish} expected; look at the hardware, or set "
            f"gpus = {seen} in the inventory when that is right"
        )
    packages = known(facts, "packages", facts.packages)
    stale = [
        f"{name} {packages[name].version}"
        for name in driver.companions(wanted, facts)
        if stack.driver and upstream(packages[name].version) != stack.driver.version
    ]
    if stale:
        found.append(
            f"not in the lock, and of another driver version: {', '.join(stale)}; what cannot "
            "stay beside the locked packages goes"
        )
    if wanted.spec.library_path:
        found.append(
            "library_path puts system libraries before the wheel's own; a cuDNN or NCCL there "
            "breaks torch"
        )
    if wanted.spec.privileged:
        for part in (rdma, imex, setting_rules, container_toolkit):
            found += part.warnings(wanted, facts)
    found += hazards.warnings(wanted, facts)
    place = "/" if wanted.spec.privileged else parent(wanted)
    disk, fetch = known(facts, "disks", facts.disks).get(place), sum(s.download for s in steps)
    if disk is not None and fetch and disk.available < 3 * fetch:
        found.append(
            f"{disk.available >> 20} MiB free on {place}, and {fetch >> 20} MiB to fetch and unpack"
        )
    holder = known(facts, "dpkg", facts.dpkg).lock_holder
    if holder and steps and locked(stack):
        found.append(f"the package database is in use by {holder}; apply waits for it")
    return found
