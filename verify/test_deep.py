"""The host bears load for a long time: each check holds one property of one soak.

One process per GPU that answers; two on the CPU where torch is its CPU build, which shows the
program and proves no GPU. Detached (verify/detached.py) the soak outlives its controller.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from verify import dcgm, soak, there, told_ranks
from verify.applies import Scene
from verify.checks import HOST, Component, Look, check
from verify.gpus import answering, part
from verify.told_ranks import CPU_RANKS, NEEDS, NO_GPU, Told, cuda_wanted, usable_gpus
from verify.training import Document, Unusable, component

FOLDER = "GPUFLEET_SOAK_FOLDER"
"""Environment variable: where the soak keeps what it knows, made by verify/detached.py."""
ENDED = "soak.ended"
DCGM_S = {2: 600.0, 3: 2700.0}
"""Levels of dcgmi diag and what each may take; NVIDIA says 2 and 15 minutes ("dcgmi diag")."""
LONG_MIN = 30
"""A soak of so many minutes has the time for dcgmi's level 3."""
SOURCE = "ours: a soak whose results are checked; gpu-fryer, OCI's gpu_sdc_checker are alike"

_runs: dict[str, Document | Unusable] = {}
_after: dict[str, Document | there.Unreachable] = {}


@pytest.fixture
def soaked(
    host: Any, scene: Scene, bundle: str, python: str, train: Callable[..., Document]
) -> Document | Unusable:
    """What the payload says of this host, run once; Unusable when it says nothing."""
    return told_ranks.once(host, _runs, lambda: _soak(host, scene, bundle, python, train))


def _soak(
    host: Any, scene: Scene, bundle: str, python: str, train: Callable[..., Document]
) -> Document | Unusable:
    on_gpus = cuda_wanted(scene)
    ranks = len(usable_gpus(scene)) if on_gpus else CPU_RANKS
    if not ranks:
        return Unusable(NO_GPU)
    seconds = 60 * max(1, scene.asked["minutes"])
    with_folder = _folder(host, scene)
    folder = next(with_folder)
    words = [python, "-B", f"{bundle}/verify/payload/soak.py", f"--ranks={ranks}"]
    words += [f"--device={'cuda' if on_gpus else 'cpu'}", f"--seconds={seconds}"]
    try:
        said = train(seconds + soak.START_S, *words, f"--folder={folder}")
        return soak.read(said, ranks)
    except Unusable as reason:
        return reason
    finally:
        next(with_folder, None)


def _folder(host: Any, scene: Scene) -> Iterator[str]:
    """A folder of the user that the soak runs as: the one of detached.py, else one for now."""
    kept = os.environ.get(FOLDER, "") if host.backend.get_connection_type() == "local" else ""
    path = kept or host.run("mktemp -d /tmp/gpufleet-soak.XXXXXX").stdout.strip()
    mine = scene.report["host"]
    user = there.way(host, scene.asked, mine["root"], mine["user"]).user
    if user:
        host.run("chown %s %s", user, path)
    yield path
    if not kept:
        host.run("rm -rf %s", path)


@pytest.fixture
def after(host: Any, scene: Scene, soaked: Document | Unusable) -> Document | there.Unreachable:
    """The host's report after the soak, read once."""

    def read_again() -> Document | there.Unreachable:
        try:
            return there.host_report(host, scene.asked, scene.expected)
        except there.Unreachable as reason:
            return reason

    return told_ranks.once(host, _after, read_again)


TOLD = Told(
    what="soak",
    ended=ENDED,
    short="did not come so far",
    component=lambda rank, _, gpus: component({"device": None, **rank}, gpus),
)
seen, ranks_with = TOLD.seen, TOLD.with_part


@check(
    ENDED,
    component="gpu",
    level="deep",
    needs=NEEDS,
    action="drain",
    source=SOURCE,
    fault="soak:die:1",
)
def test_ended(
    soaked: Document | Unusable,
    gpus: list[dict[str, Any]],
    look: Look,
    measure: Callable[..., None],
    inform: Callable[[str], None],
) -> None:
    """Every GPU works under load for the whole time."""
    document = seen(soaked, look)
    if document is None:
        return
    if document["perturbed"]:
        inform(f"the soak was changed on purpose: {document['perturbed']}")
    wanted = f"{document['asked_s']:g} s"
    failed = any(one["state"] in ("raised", "died", "hung") for one in document["ranks"])
    for rank in document["ranks"]:
        where = TOLD.component(rank, document, gpus)
        if rank["state"] == "stopped":
            why = document["why"] or "another rank failed"
            because = ENDED if failed else ""
            look.unknown(where, "soak", why=f"stopped early: {why}", because=because)
            continue
        how = {
            "raised": rank.get("error", ""),
            "died": f"it died (exit {rank['code']})",
            "hung": "it hangs" + " and could not be killed" * rank["abandoned"],
        }.get(rank["state"], rank["state"])
        ended = rank["state"] == "ended"
        look.at(
            where,
            "time under load",
            found=wanted if ended else f"{how} in {rank.get('stage') or 'its start'}",
            expected=wanted,
            verdict="hung" if rank["state"] == "hung" else "fail",
        )
        if ended:
            measure("soak.seconds", "s", rank["seconds"], where, **_device(document))


@check(
    "soak.memory",
    component="gpu",
    level="deep",
    needs=NEEDS,
    action="service",
    source=f"{SOURCE}; patterns as memory testers have them; a mismatch that ECC did not count is "
    "silent corruption",
    fault="soak:memory:1",
)
def test_memory(
    soaked: Document | Unusable,
    gpus: list[dict[str, Any]],
    look: Look,
    measure: Callable[..., None],
) -> None:
    """Memory gives back what was written to it, in every pattern."""
    for rank, where in ranks_with("memory", soaked, gpus, look):
        memory = rank["memory"]
        rounds, size = soak.whole_rounds(memory), memory["bytes"] / 2**20
        wrong = memory["wrong_words"]
        if not rounds and not wrong:
            why = "the time was too short for one whole round: --minutes gives more"
            _too_short(rank, where, "memory patterns", why, look)
            continue
        look.at(
            where,
            "words that differ from what was written",
            found=f"{wrong} in {size:.0f} MiB, {rounds} rounds" if wrong else "0",
            expected="0",
            held=not wrong,
            evidence=[
                f"{one['pattern']}: offset {one['offset']:#x}: wrote {one['wrote']}, read "
                f"{one['read']}, bits {one['bits']}, after {one['at_s']} s"
                for one in memory["wrong"]
            ],
        )
        conditions = _device(soaked)
        measure("soak.memory-tested", "MiB", size, where, **conditions)
        measure("soak.memory-rounds", "rounds", rounds, where, **conditions)


def _device(soaked: Document | Unusable) -> dict[str, str]:
    on_cpu = not isinstance(soaked, Unusable) and soaked["device"] == "cpu"
    return {"device": "cpu"} if on_cpu else {}


def _too_short(rank: Document, where: Component, what: str, why: str, look: Look) -> None:
    """A rank had no time for it: its own failure is the cause, where it has one."""
    look.unknown(where, what, why=why, because="" if rank["state"] == "ended" else ENDED)


@check(
    "soak.compute",
    component="gpu",
    level="deep",
    needs=NEEDS,
    action="service",
    source=f"{SOURCE}; cuBLAS, Results reproducibility: equal bits run to run on one stream",
    fault="soak:compute:0",
)
def test_compute(
    soaked: Document | Unusable,
    gpus: list[dict[str, Any]],
    look: Look,
    measure: Callable[..., None],
) -> None:
    """The same computation has the same bits every time."""
    for rank, where in ranks_with("compute", soaked, gpus, look):
        compute = rank["compute"]
        done = {"products": compute["products"], "replays": compute["replays"]}
        if min(done.values()) < 2:
            why = "nothing was computed twice: --minutes gives more time"
            _too_short(rank, where, "repeated computations", why, look)
            continue
        for name, times in done.items():
            wrong = compute[f"wrong_{name}"]
            what = {"products": compute["what"], "replays": "a training of 20 steps"}[name]
            look.at(
                where,
                f"results that differ ({what})",
                found=f"{wrong} of {times}" if wrong else "0",
                expected="0",
                held=not wrong,
                evidence=[
                    f"{one['what']} {one['number']}: {one['elements']} elements differ, after "
                    f"{one['at_s']} s"
                    for one in compute["wrong"]
                    if f"{one['what']}s" == name
                ],
            )
            measure(f"soak.{name}", "times", times, where, **_device(soaked))


@check(
    "soak.stable",
    component="gpu",
    level="deep",
    needs=NEEDS,
    action="drain",
    verdict="degraded",
    source=f"{SOURCE}; the bound is the threshold's own",
    fault="soak:slow:0",
)
def test_stable(
    soaked: Document | Unusable,
    gpus: list[dict[str, Any]],
    look: Look,
    measure: Callable[..., None],
    threshold: Callable[[str], float],
) -> None:
    """Throughput at the end is that of the beginning."""
    on_cpu = bool(_device(soaked))
    most = threshold("soak.sag-cpu-percent" if on_cpu else "soak.sag-percent")
    for rank, where in ranks_with("compute", soaked, gpus, look):
        rates = rank["compute"]["rates"]
        found = soak.sag(rates)
        if found is None:
            why = f"{len(rates)} figures are too few: --minutes gives more time"
            _too_short(rank, where, "throughput", why, look)
            continue
        early, late = found
        lost = 100 * (1 - late / early) if early > 0 else 100.0
        look.at(
            where,
            "throughput of the last third, beside the first",
            found=f"{late:.4g} TFLOPS after {early:.4g}: {lost:.0f} % less",
            expected=f"at most {most:g} % less",
            held=lost <= most,
            verdict="degraded",
            evidence=[f"{at:g} s: {rate:.4g} TFLOPS" for at, rate in soak.picked(rates, 8)],
        )
        for at, rate in soak.picked(rates):
            measure("soak.rate", "TFLOPS", rate, where, at_s=f"{at:g}", **_device(soaked))


@check(
    "soak.thermal",
    component="gpu",
    level="deep",
    needs=("nvml", *NEEDS),
    action="drain",
    source="NVML: nvmlClocksEventReasons, NVML_TEMPERATURE_THRESHOLD_SLOWDOWN",
    fault="soak:hot:0",
)
def test_thermal(
    soaked: Document | Unusable,
    scene: Scene,
    gpus: list[dict[str, Any]],
    look: Look,
    measure: Callable[..., None],
) -> None:
    """No GPU reaches its slow-down temperature or is slowed by its hardware."""
    document = seen(soaked, look)
    if document is None:
        return
    samples = document["samples"]
    found = {gpu["uuid"]: gpu for gpu in samples.get("gpus", [])}
    for gpu in answering(gpus, scene, look):
        mine = found.get(gpu["uuid"])
        if mine is None or mine["samples"] <= mine["unread"] or mine["samples"] < 2:
            why = samples["error"] or "NVML told nothing of it while it was under load"
            look.unknown(part(gpu), "temperature under load", why=why)
            continue
        slowed = soak.reasons(mine, soak.HARDWARE)
        look.at(
            part(gpu),
            "slowing by hardware",
            found=slowed or "none",
            expected="none",
            held=not slowed,
        )
        warm = soak.reasons(mine, soak.SOFTWARE)
        look.at(
            part(gpu),
            "slowing by the driver because of heat",
            found=warm or "none",
            expected="none",
            held=not warm,
            verdict="degraded",
        )
        if mine["slowdown_c"] is not None and mine["hottest_c"] is not None:
            look.at(
                part(gpu),
                "highest temperature",
                found=f"{mine['hottest_c']:g} C",
                expected=f"below {mine['slowdown_c']:g} C",
                held=mine["hottest_c"] < mine["slowdown_c"],
            )
        for point in soak.picked(mine["curve"]):
            at, *values = point
            names = (("temperature", "C"), ("power", "W"), ("sm-clock", "MHz"))
            for (name, unit), value in zip(names, values, strict=True):
                if value is not None:
                    conditions = {"at_s": f"{at:g}", **_device(soaked)}
                    measure(f"soak.{name}", unit, value, part(gpu), **conditions)


COUNTERS = (
    ("ecc.corrected", "corrected memory errors", "degraded"),
    ("ecc.uncorrected", "uncorrected memory errors", "fail"),
    ("remap.corrected", "rows remapped after corrected errors", "degraded"),
    ("remap.uncorrected", "rows remapped after uncorrected errors", "fail"),
    ("retired.double_bit", "pages retired", "fail"),
    ("pcie.replays", "PCIe replays", "degraded"),
)
"""Counters of the report, what they count, and the verdict when they grow under load."""
MOST_REPLAYS = 8
"""A link may repeat a packet now and then; what grows steadily is a bad one."""


@check(
    "soak.counters",
    component="gpu",
    level="deep",
    needs=("nvml", *NEEDS),
    action="drain",
    source="NVIDIA: GPU Memory Error Management; Xid Errors",
    fault="soak-xid:0",
)
def test_counters(
    soaked: Document | Unusable,
    after: Document | there.Unreachable,
    report: dict[str, Any],
    scene: Scene,
    gpus: list[dict[str, Any]],
    look: Look,
) -> None:
    """No counter of errors grows under load, and no Xid comes."""
    if seen(soaked, look) is None:
        return
    if isinstance(after, there.Unreachable) or after["nvml"]["state"] != "ok":
        why = str(after) if isinstance(after, there.Unreachable) else after["nvml"]["error"]
        look.unknown(HOST, "counters after the soak", why=f"NVML did not answer again: {why}")
        return
    then = {gpu["uuid"]: gpu for gpu in after["nvml"]["gpus"] if gpu["uuid"]}
    for gpu in answering(gpus, scene, look):
        now = then.get(gpu["uuid"])
        if now is None or now["lost"]:
            look.at(part(gpu), "the GPU after the soak", found="it is gone", expected="there")
            continue
        _growth(gpu, now, look)
    _xids(report["log"], after["log"], gpus, look)


def _growth(gpu: Document, now: Document, look: Look) -> None:
    for path, what, verdict in COUNTERS:
        family, key = path.split(".")
        before, later = (one.get(family) or {} for one in (gpu, now))
        if before.get(key) is None or later.get(key) is None:
            continue  # this GPU has no such counter, or gpu.* has said that it cannot be read
        grown = later[key] - before[key]
        most = MOST_REPLAYS if path == "pcie.replays" else 0
        look.at(
            part(gpu),
            f"{what} during the soak",
            found=grown,
            expected=f"at most {most}" if most else 0,
            held=grown <= most,
            verdict=verdict,
        )


def _xids(before: Document, after: Document, gpus: list[Document], look: Look) -> None:
    if not (before["readable"] and after["readable"]):
        why = f"the kernel log cannot be read: {after['error'] or before['error']}"
        look.unknown(HOST, "Xid events during the soak", why=why, because="gpu.xid")
        return
    seen = {(one["slot"], one["time"], one["line"]) for one in before["xids"]}
    fresh = [one for one in after["xids"] if (one["slot"], one["time"], one["line"]) not in seen]
    by_slot: dict[str, list[Document]] = {}
    for one in fresh:
        by_slot.setdefault(one["slot"].partition(".")[0].lower(), []).append(one)
    for slot, events in by_slot.items():
        mine = [gpu for gpu in gpus if (gpu["slot"] or "").partition(".")[0].lower() == slot]
        where = part(mine[0]) if mine else Component(kind="gpu", slot=slot)
        codes = ", ".join(f"Xid {one['code']}" for one in events[:8])
        lines = [one["line"] for one in events]
        look.at(where, "Xid events during the soak", found=codes, expected="none", evidence=lines)
    if not fresh:
        look.at(HOST, "Xid events during the soak", found=0, expected=0)


@check(
    "soak.dcgm",
    component="gpu",
    level="deep",
    needs=("dcgm", "idle"),
    action="service",
    source="NVIDIA: dcgmi diag; DCGM Diagnostic Errors (severities)",
    fault="dcgm-fails:2",
)
def test_dcgm(
    asked: dict[str, Any],
    gpus: list[dict[str, Any]],
    within: Callable[..., Document],
    look: Look,
) -> None:
    """NVIDIA's own diagnosis finds nothing."""
    level = 3 if asked["minutes"] >= LONG_MIN else 2
    ran = within(DCGM_S[level], "dcgmi", "diag", "-r", str(level), "-j")
    if ran["hung"]:
        look.unknown(HOST, "dcgmi diag", why=f"no end within {DCGM_S[level]:g} s", hung=True)
        return
    try:
        outcomes = dcgm.read(ran["out"])
    except dcgm.Unreadable as reason:
        why = f"{reason} (exit {ran['rc']}): {ran['err'].strip()[-160:]}"
        look.unknown(HOST, f"dcgmi diag -r {level}", why=why)
        return
    by_index = {gpu["index"]: gpu for gpu in gpus}
    for one in outcomes:
        where = part(by_index[one.gpu]) if one.gpu in by_index else HOST
        if one.status != dcgm.SKIP:
            look.at(
                where,
                f"dcgmi diag -r {level}: {one.test}",
                found=one.said[0] if one.said and one.status != dcgm.PASS else one.status,
                expected="pass",
                held=one.status == dcgm.PASS,
                verdict="degraded" if one.status == dcgm.WARN or one.config else "fail",
                action="keep" if one.status == dcgm.WARN or one.config else "service",
                evidence=one.said,
            )
