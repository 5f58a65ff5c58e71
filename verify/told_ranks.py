"""What the ranks of a payload told of this host, and what is a consequence where they did not.

Travels to the host. The checks of training, of the torch tier, of the soak and of workloads ask a
payload the same way: one rank per GPU that answers, and two on the CPU build of torch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

from verify.applies import Scene, locked_environment
from verify.checks import HOST, Component, Look
from verify.training import MOST_RANKS, Document, Unusable

Answer = TypeVar("Answer")

CPU_RANKS = 2
NEEDS = ("torch", "idle")
"""What a payload that loads GPUs needs, as names of verify/applies.py."""
NO_GPU = "torch is built for CUDA, and no GPU answers"


# ---- how they are asked


def cuda_wanted(scene: Scene) -> bool:
    """Whether the environment is to train on GPUs: the lock's build, else the one that is there."""
    environment = locked_environment(scene)
    if environment is not None:
        return str(environment["build"]) != "cpu"
    return scene.report["torch"]["cuda"] is not None


def usable_gpus(scene: Scene) -> list[Document]:
    """The GPUs that NVML can talk to."""
    return [gpu for gpu in scene.report["nvml"]["gpus"] if not gpu["lost"]]


def once(host: Any, answers: dict[str, Answer], ask: Callable[[], Answer]) -> Answer:
    """The answer of this host, asked once a session and kept in `answers`."""
    name = host.backend.get_pytest_id()
    if name not in answers:
        answers[name] = ask()
    return answers[name]


def asked(
    scene: Scene,
    train: Callable[..., Document],
    seconds: float,
    words: list[str],
    read: Callable[[Document, int, str], Document],
    ranks_of: Callable[[int], int] = lambda gpus: gpus or CPU_RANKS,
) -> Document | Unusable:
    """The document of a payload that `words` start; Unusable, with its user, when there is none.

    `ranks_of` turns the number of GPUs, 0 on the CPU build, into one of ranks; `read` takes what
    was said, the ranks and the device.
    """
    on_gpus = cuda_wanted(scene)
    gpus = len(usable_gpus(scene)) if on_gpus else 0
    if on_gpus and not gpus:
        return Unusable(NO_GPU)
    ranks = ranks_of(gpus)
    if ranks > MOST_RANKS:
        return Unusable(f"{ranks} GPUs; at most {MOST_RANKS} ranks are started")
    device = "cuda" if on_gpus else "cpu"
    said = train(seconds, *words, f"--ranks={ranks}", f"--device={device}")
    try:
        return read(said, ranks, device)
    except Unusable as reason:
        who = said["user"]
        return Unusable(f"{reason} (as user {who})", reason.hung) if who else reason


# ---- what is a consequence


@dataclass(frozen=True)
class Told:
    """The words in which a payload's checks say that something was not told."""

    what: str
    """The payload, as findings name it."""
    ended: str
    """Id of the check that says how each rank ended: the cause of all that is missing elsewhere."""
    short: str
    """Of a rank that left a part out: what it did."""
    component: Callable[[Document, Document, list[Document]], Component]
    """What a rank of a document ran on, given NVML's GPUs."""

    def seen(self, document: Document | Unusable, look: Look) -> Document | None:
        """The document; without one, why: in `ended`, and elsewhere as its consequence."""
        if not isinstance(document, Unusable):
            return document
        cause = look.check.id == self.ended
        because = "" if cause else self.ended
        hung = document.hung and cause
        look.unknown(HOST, self.what, why=str(document), hung=hung, because=because)
        return None

    def with_part(
        self, name: str, told: Document | Unusable | None, gpus: list[Document], look: Look
    ) -> Iterator[tuple[Document, Component]]:
        """The ranks that have a part of the document; the others are recorded as consequences."""
        document = None if told is None else self.seen(told, look)
        if document is None:
            return
        for rank in document["ranks"]:
            of = self.component(rank, document, gpus)
            if name in rank:
                yield rank, of
            else:
                why = f"rank {rank['rank']} {self.short}"
                look.unknown(of, name, why=why, because=self.ended)
