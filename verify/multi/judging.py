"""What a training across hosts came to, from the documents of all of them. Pure."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from verify import nccl_log, training
from verify.checks import HOST as WHOLE
from verify.checks import Check, Component, Look
from verify.multi import claims
from verify.multi.team import Member
from verify.payload.ranks import name_states
from verify.results import CheckResult, Finding, Measurement, NotAsked, Part
from verify.training import Document

NO_NAME = ("gaierror", "Name or service not known", "Temporary failure in name resolution")
"""What torchrun fails with where a name leads nowhere."""
TYPES = ("float32", "float64", "int32", "int64")
"""Those in which sums are exact over as many ranks as there may be."""
OPERATIONS = (
    *("all_reduce sum", "all_reduce min", "all_reduce max"),
    *("broadcast", "all_gather", "reduce_scatter", "all_to_all"),
)


@dataclass
class Trained:
    """One test: who took part, and what each said."""

    members: Mapping[str, Member]
    documents: dict[str, Document]
    silent: dict[str, str]
    """Why a host said nothing of its ranks."""
    least_gbs: float = 0.0
    """The site's threshold of bandwidth; 0: none."""
    ranks: dict[str, list[Document]] = field(init=False)
    """Of each host, with `state`; a host that said nothing has one that died."""

    def __post_init__(self) -> None:
        self.ranks = {name: self._ranks(name) for name in self.members}
        name_states([rank for each in self.ranks.values() for rank in each])

    def _ranks(self, name: str) -> list[Document]:
        found = self.documents.get(name)
        if found is None:
            return [_nobody(self.silent.get(name, "it said nothing"))]
        ranks = [dict(one) for one in found["ranks"]]
        for one in ranks:
            if not one["ended"] and not one["error"]:
                network, agent = found["network"]["error"], found["agent"]["error"]
                # torchrun that found nobody says nothing about whose fault that is.
                blind = one["rank"] is None and agent != ""
                one["error"] = network or (agent if blind else "")
                one["others"] = not network and blind and not any(w in agent for w in NO_NAME)
        return ranks

    @property
    def world(self) -> int:
        return sum(one.ranks for one in self.members.values())

    @property
    def passed(self) -> bool:
        """Whether all held on all hosts; the way that data take is judged, and blames nobody."""
        return all(
            check.verdict == "pass"
            for name in self.members
            for check in self.judged(name, [])[0]
            if check.id != claims.TRANSPORT.id
        )

    def culprits(self) -> list[str]:
        """Ranks that failed by themselves, a line each."""
        return [
            f"{training.failure(rank)}: {training.who(rank, self.about(name))}"
            for name, ranks in self.ranks.items()
            for rank in ranks
            if rank["state"] in ("died", "raised", "hung")
        ]

    def about(self, name: str) -> Document:
        """What evidence says of the run of a host."""
        perturbed = self.documents.get(name, {}).get("perturbed", "")
        return {"world": self.world, "host": name, "perturbed": perturbed}

    # ---- one host's part

    def judged(
        self, name: str, gpus: Iterable[Document], because: str = ""
    ) -> tuple[list[CheckResult], list[NotAsked]]:
        """The checks of one host; `because` names the one whose finding explains all of it."""
        mine = _Mine(self, name, list(gpus), because)
        checks = [
            mine.ended(),
            mine.collectives(),
            mine.gradients(),
            mine.parameters(),
            mine.loss(),
            mine.bandwidth(),
        ]
        transport = mine.transport()
        not_asked = [transport] if isinstance(transport, NotAsked) else []
        return [*checks, *([] if isinstance(transport, NotAsked) else [transport])], not_asked

    def measured(self, name: str) -> list[Measurement]:
        """Bus bandwidth by size, of the slowest rank of a host."""
        slowest = _slowest(self.ranks[name])
        run = self.documents.get(name, {}).get("run") or {}
        statement = nccl_log.read(self.documents.get(name, {}).get("nccl", []))
        transport = nccl_log.transport(statement) if run.get("backend") == "nccl" else "tcp"
        return [
            Measurement(
                name="bench.all-reduce",
                unit="GB/s",
                value=gbs,
                component=Part(),
                conditions={
                    "bytes": str(size),
                    "world": str(run.get("world", self.world)),
                    "backend": str(run.get("backend", "")),
                    "transport": transport,
                    "algorithm": "unknown",
                    "hosts": str(len(self.members)),
                    **({"device": "cpu"} if run.get("backend") == "gloo" else {}),
                },
            )
            for size, gbs in slowest.items()
        ]


def _nobody(why: str) -> Document:
    """The rank of a host that said nothing."""
    return {
        "rank": None, "local": 0, "pid": 0, "stage": "start", "at": why, "steps": 0, "calls": 0,
        "inside": False, "ended": False, "gone": True, "abandoned": False, "code": None,
        "error": "", "others": False, "stderr": "", "device": None, "collective": "",
        "sequence": None, "stack": [],
    }  # fmt: skip


def _slowest(ranks: Iterable[Document]) -> dict[int, float]:
    found: dict[int, float] = {}
    for rank in ranks:
        for one in rank.get("bandwidth", ()):
            found[one["bytes"]] = min(one["bus_gbs"], found.get(one["bytes"], one["bus_gbs"]))
    return found


class _Mine:
    """One host's part of a test."""

    def __init__(self, of: Trained, name: str, gpus: list[Document], because: str) -> None:
        self.of, self.name, self.because = of, name, because
        self.ranks = of.ranks[name]
        self.components = [self._component(rank, gpus) for rank in self.ranks]
        self.all = [rank for ranks in of.ranks.values() for rank in ranks]

    def _component(self, rank: Document, gpus: list[Document]) -> Component:
        numbered = {**rank, "rank": rank["local"] if rank["rank"] is None else rank["rank"]}
        if rank["device"] is None:  # it came to no device: the host is what is known
            return WHOLE
        return training.component(numbered, gpus)

    def ended(self) -> CheckResult:
        look = Look(claims.ENDED)
        culprits = self.of.culprits()
        for rank, component in zip(self.ranks, self.components, strict=True):
            lines = training.evidence(rank, self.of.about(self.name))
            if rank["state"] == "lost":
                why = f"waited in vain; at fault by what all ranks say: {'; '.join(culprits[:2])}"
                look.unknown(
                    component, "training across hosts", why=why, because=self.because,
                    evidence=lines,
                )  # fmt: skip
                continue
            look.at(
                component,
                "training across hosts",
                found="ended" if rank["ended"] else training.failure(rank),
                expected="ended",
                verdict="hung" if rank["state"] == "hung" else "fail",
                evidence=lines,
                because=self.because,
            )
        return told(look)

    def _with(self, part: str, look: Look) -> list[tuple[Document, Component]]:
        """The ranks that got to a part; the others are consequences."""
        found = []
        for rank, component in zip(self.ranks, self.components, strict=True):
            if part in rank:
                found.append((rank, component))
            else:
                look.unknown(
                    component, part, why="it was stopped before",
                    because=self.because or claims.ENDED.id,
                )  # fmt: skip
        return found

    def collectives(self) -> CheckResult:
        look = Look(claims.COLLECTIVES)
        senders = training.senders([one for one in self.all if "collectives" in one])
        for rank, component in self._with("collectives", look):
            found = rank["collectives"]
            for what in (f"{one} {dtype}" for one in OPERATIONS for dtype in TYPES):
                if not found["compared"].get(what):
                    why = found["left_out"].get(what.split()[-1], "it was not compared")
                    look.unknown(component, what, why=why, because=self.because)
            sent = rank["rank"] in senders
            look.at(
                component,
                f"wrong elements of {sum(found['compared'].values())} in collectives",
                found=found["wrong_elements"] or ("others got wrong ones from it" if sent else 0),
                expected=0,
                evidence=[
                    f"rank {rank['rank']}",
                    *(
                        f"{one['operation']} of {one['length']}: element {one['index']} is "
                        f"{one['found']} and not {one['wanted']}, from rank {one['source']}"
                        for one in found["wrong"]
                    ),
                ],
                because=self.because,
            )
        return told(look)

    def gradients(self) -> CheckResult:
        look = Look(claims.GRADIENTS)
        references = {
            one["rank"]: one["gradients"]["reference"] for one in self.all if "gradients" in one
        }
        odd = training.odd_ones(references)
        for rank, component in self._with("gradients", look):
            found = rank["gradients"]
            if not 0 < found["largest"] < found["exact_below"] or not found["compared"]:
                why = "it was not run where the arithmetic is exact"
                look.unknown(component, "gradients of integers", why=why, because=self.because)
                continue
            wrong = found["sent_wrong"] + found["received_wrong"]
            if rank["rank"] in odd:
                wrong = "other bits than most ranks, without any of them"
            look.at(
                component,
                f"wrong elements of {found['compared']} in gradients of integers",
                found=wrong,
                expected=0,
                evidence=[f"rank {rank['rank']}: {found['first']}"],
                because=self.because,
            )
        return told(look)

    def parameters(self) -> CheckResult:
        look = Look(claims.PARAMETERS)
        trained = {one["rank"]: one["transformer"] for one in self.all if "transformer" in one}
        changed = {rank for rank, one in trained.items() if one["digest"] != one["replayed"]}
        odd = training.odd_ones({rank: one["digest"] for rank, one in trained.items()})
        odd = changed & odd if changed & odd else odd | changed
        for rank, component in self._with("transformer", look):
            look.at(
                component,
                "parameters after training across hosts",
                found="other bits" if rank["rank"] in odd else "the same bits",
                expected="the same bits",
                evidence=[f"rank {rank['rank']}: SHA-256 {rank['transformer']['digest']}"],
                because=self.because,
            )
        return told(look)

    def loss(self) -> CheckResult:
        look = Look(claims.LOSS)
        run = self.of.documents.get(self.name, {}).get("run") or {}
        for rank, component in self._with("transformer", look):
            loss = rank["transformer"]["loss"]
            lowest, highest = training.loss_bounds(run, loss["samples"]) if run else (0.0, 0.0)
            last = loss["last"]
            look.at(
                component,
                "loss after training across hosts",
                found="not a number" if last is None else f"{last:.3f}",
                expected=f"{lowest:.3f} to {highest:.3f} nats",
                held=last is not None and lowest <= last <= highest,
                baseline="physics",
                evidence=[f"rank {rank['rank']}: {loss['first']} at the beginning"],
                because=self.because,
            )
        return told(look)

    def bandwidth(self) -> CheckResult:
        look = Look(claims.BANDWIDTH)
        ranks = [rank for rank, _ in self._with("bandwidth", look)]
        figures = _slowest(ranks)
        if ranks and not figures:
            look.unknown(WHOLE, "bus bandwidth", why="no figure came", because=self.because)
        if figures:
            size = max(figures)
            least = self.of.least_gbs
            look.at(
                WHOLE,
                f"bus bandwidth of all_reduce of {size} bytes over {self.of.world} ranks",
                found=f"{figures[size]:.2f} GB/s",
                expected=f"at least {least:g} GB/s" if least else "a figure",
                held=figures[size] >= least,
                baseline="physics" if not least else "file",
                evidence=[f"{at} bytes: {gbs:.2f} GB/s" for at, gbs in sorted(figures.items())],
                because=self.because,
            )
        return told(look)

    def transport(self) -> CheckResult | NotAsked:
        document = self.of.documents.get(self.name)
        run = (document or {}).get("run") or {}
        if run.get("backend") == "gloo":
            interface = (document or {})["network"]["interface"]
            return NotAsked(
                id=claims.TRANSPORT.id, reason=f"gloo joins hosts by TCP (interface {interface})"
            )
        look = Look(claims.TRANSPORT)
        host_of = {
            one["rank"]: name
            for name, ranks in self.of.ranks.items()
            for one in ranks
            if one["rank"] is not None
        }
        infiniband = all(one.rdma for one in self.of.members.values())
        if document is None or not run:
            why = "no rank came as far as NCCL"
            look.unknown(
                WHOLE, "transport between hosts", why=why, because=self.because or claims.ENDED.id
            )
            return told(look)
        statement = nccl_log.read(document["nccl"])
        for one in nccl_log.between_hosts(statement, host_of, infiniband):
            if one.verdict == "not-run":
                look.unknown(WHOLE, one.what, why=one.found, because=self.because)
                continue
            look.at(
                WHOLE,
                one.what,
                found=one.found,
                expected=one.expected,
                held=not one.verdict,
                verdict=one.verdict or "fail",
                evidence=one.evidence,
                because=self.because,
            )
        return told(look)


def told(look: Look) -> CheckResult:
    """A look as it stands in a host's result."""
    of: Check = look.check
    findings: list[dict[str, Any]] = look.document()
    return CheckResult(
        id=of.id,
        claim=of.claim,
        level="multi-node",
        verdict=look.verdict,
        seconds=0.0,
        looked_at=len(look.observations),
        findings=tuple(Finding.model_validate(one) for one in findings[:1000]),
    )
