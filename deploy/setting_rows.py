"""Settings of the GPUs and the RDMA stack as rows for a reader. Pure."""

from collections.abc import Iterator

from deploy.catalog import Catalogue
from deploy.facts import NodeFacts
from deploy.fold import Row
from deploy.probing.setting_facts import GpuSettings


def setting_rows(facts: NodeFacts, catalogue: Catalogue) -> Iterator[Row]:
    """One line for each group of GPUs that are set alike, then what RDMA stands on."""
    alike: dict[str, list[str]] = {}
    waits = False
    for gpu in facts.gpu_settings or ():
        alike.setdefault(_said(gpu), []).append(str(gpu.index))
        waits = waits or gpu.ecc != gpu.ecc_pending or gpu.mig != gpu.mig_pending
    if len(alike) == 1:
        yield Row("settings", next(iter(alike)), waits)
    elif alike:
        lines = [f"GPU {', '.join(gpus)}: {said}" for said, gpus in alike.items()]
        yield Row("settings", "\n".join(lines), True)
    yield from _rdma(facts)


def _said(gpu: GpuSettings) -> str:
    words = []
    if gpu.power_limit is not None:
        most = "" if gpu.power_max in {None, gpu.power_limit} else f" of {gpu.power_max:g}"
        words.append(f"{gpu.power_limit:g}{most} W")
    for name, now, later in (("ECC", gpu.ecc, gpu.ecc_pending), ("MIG", gpu.mig, gpu.mig_pending)):
        if now is not None:
            after = "" if later == now else f" ({'on' if later else 'off'} after a boot)"
            words.append(f"{name} {'on' if now else 'off'}{after}")
    if gpu.mig_instances:
        words.append(" ".join(gpu.mig_instances))
    return ", ".join(words) or "none that can be set"


def _rdma(facts: NodeFacts) -> Iterator[Row]:
    rdma = facts.rdma
    if rdma is None or not (rdma.ofed or rdma.efa or rdma.devices):
        return
    words = [rdma.ofed] if rdma.ofed else []
    words += [f"EFA {rdma.efa}"] if rdma.efa else []
    words.append(f"{len(rdma.devices)} devices")
    peermem = [name for name in rdma.loaded if name in {"nvidia_peermem", "nv_peer_mem"}]
    words.append(f"{', '.join(peermem)} loaded" if peermem else "no module for GPU memory")
    unfit = any(
        one.ofed_has and one.built_against not in {None, one.ofed_has} for one in rdma.peermem
    )
    words += ["nvidia-peermem was built against another OFED"] * unfit
    yield Row("RDMA", ", ".join(words), unfit or rdma.restart)
