"""Training across hosts from beginning to end: who can, all at once, and who is at fault.

The answers are those of an ordinary verify run, so that every report shows them.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from deploy.fleet.inventory import Fleet, Host
from deploy.fleet.runs import Run
from deploy.fleet.ssh_config import ssh_config
from verify import nodes, thresholds
from verify.checks import HOST, Look
from verify.launch import new_nonce
from verify.multi import claims
from verify.multi.judging import Trained, told
from verify.multi.rounds import Found, Group, isolate
from verify.multi.team import Member, meeting, team
from verify.results import CheckResult, HostResult, NotAsked
from verify.runner import Answer, Question, ask_all
from verify.training import Document, Unusable

READY, TOOK_PART = "nodes.ready", "nodes.took-part"
LEAST = "nodes.bandwidth-gbs"
MOST_NOTES = 12


def ask_across(fleet: Fleet, question: Question, record: Run) -> Iterator[Answer]:
    """Every host's answer to `verify --multi-node`. Never raises for what a host does."""
    first = {one.host: one for one in ask_all(fleet, _asking(question, READY))}
    addresses = {name: address_of(host) for name, host in fleet.hosts.items()}
    members, left = team(first.values(), addresses)
    record.event("multi-node", members=list(members), left=left)
    if len(members) < 2:
        for name, answer in first.items():
            yield _alone(answer, name in members, left)
        return
    across = Across(fleet, question, record, members)
    yield from across.answers(first, left)


def address_of(host: Host) -> str:
    """By which the other hosts reach a host: the inventory's word, else what we log in to."""
    if host.spec.train_address:
        return host.spec.train_address
    name = host.address.removeprefix("@ssh/")
    if not host.is_ssh:
        return name
    return str(ssh_config(host.data.get("ssh_config_file")).lookup(name).get("hostname", name))


def _asking(question: Question, *ids: str) -> Question:
    return replace(question, checks=ids, asked=frozenset(ids))


def _alone(answer: Answer, able: bool, left: Mapping[str, str]) -> Answer:
    """An answer where fewer than two hosts can take part."""
    look = Look(claims.ENDED)
    why = f"no other host can take part ({len(left)} cannot: see {READY} of each)"
    look.unknown(HOST, "training across hosts", why=why)
    return _with(answer, [told(look)] if able else [], [], left=left.get(answer.host, ""))


def _with(
    answer: Answer,
    checks: Sequence[CheckResult],
    not_asked: Sequence[NotAsked],
    *,
    left: str = "",
    result: HostResult | None = None,
    notes: Sequence[str] = (),
) -> Answer:
    """An answer with what the controller adds; every claim is there, looked at or not asked."""
    first = answer.result
    if first is None:
        return answer
    found = result or first
    kept = [one for one in (*first.checks, *found.checks) if one.id in (READY, TOOK_PART)]
    every = {one.id: one for one in (*kept, *checks)}
    reasons = {one.id: one for one in (*first.not_asked, *found.not_asked, *not_asked)}
    for claim in (*claims.NODES,):
        why = f"it takes no part: {left}" if left else "nothing made it necessary to ask"
        reasons.setdefault(claim.id, NotAsked(id=claim.id, reason=why[:1000]))
    return replace(
        answer,
        result=found.model_copy(
            update={
                "checks": tuple(every.values()),
                "not_asked": tuple(one for id, one in reasons.items() if id not in every),
                "document": "",
            }
        ),
        notes=(*answer.notes, *notes),
    )


@dataclass
class Across:
    """The tests of one run."""

    fleet: Fleet
    question: Question
    record: Run
    members: dict[str, Member]
    tests: list[Trained] = field(default_factory=list)
    results: dict[int, dict[str, HostResult]] = field(default_factory=dict)
    """Of each test by its number: what its hosts answered."""

    def answers(self, first: Mapping[str, Answer], left: Mapping[str, str]) -> Iterator[Answer]:
        everyone = Group(self.members)
        found = Found(proven=True, tests=1, rounds=1)
        if not self.round([everyone])[0]:
            found = isolate(everyone, self.round, failed=True)
            found.tests, found.rounds = found.tests + 1, found.rounds + 1
        self.record.event(
            "isolated",
            hosts=sorted(found.hosts),
            links=[sorted(one) for one in found.links],
            unconfirmed=[sorted(one) for one in found.unconfirmed],
            proven=found.proven,
            tests=found.tests,
            rounds=found.rounds,
        )
        for name, answer in first.items():
            if name not in self.members:
                yield _with(answer, [], [], left=left.get(name, ""))
            else:
                yield self._answer(answer, found)

    def round(self, groups: Sequence[Group]) -> list[bool]:
        """Run disjoint groups at the same time; whether each passed."""
        asked = {}
        for group in groups:
            some = [self.members[name] for name in sorted(group)]
            asked.update(meeting(some, new_nonce(), len(self.tests)))
        hosts = {name: self.fleet.hosts[name] for name in asked}
        question = replace(_asking(self.question, TOOK_PART), rendezvous=asked)
        answers = {one.host: one for one in ask_all(replace(self.fleet, hosts=hosts), question)}
        passed = []
        for group in groups:
            documents, silent = {}, {}
            for name in sorted(group):
                try:
                    documents[name] = self._document(name, answers.get(name), asked[name])
                except Unusable as reason:
                    silent[name] = str(reason)
            one = Trained(
                {name: self.members[name] for name in sorted(group)},
                documents,
                silent,
                max(self._least(name) for name in group),
            )
            self.results[len(self.tests)] = {
                name: answers[name].result  # type: ignore[misc]
                for name in group
                if name in answers and answers[name].result
            }
            self.tests.append(one)
            passed.append(one.passed)
            said = [] if one.passed else one.culprits()[:MOST_NOTES]
            self.record.event(
                "trained-across", hosts=sorted(group), passed=one.passed, culprits=said
            )
        return passed

    def _least(self, name: str) -> float:
        return thresholds.value(LEAST, dict(self.fleet.hosts[name].spec.thresholds))

    def _document(self, name: str, answer: Answer | None, asked: Document) -> Document:
        """What a host said of its ranks. Raises Unusable with the reason why there is nothing."""
        if answer is None or answer.result is None:
            why = (answer.message or answer.silence) if answer else "no answer"
            raise Unusable(why)
        text = answer.result.document
        if text:
            self.record.log(name).line(text)
            return nodes.parse(text, asked)
        for check in answer.result.checks:
            for finding in check.findings:
                raise Unusable(finding.found)
        raise Unusable("it gave no document")

    # ---- what it comes to on one host

    def _answer(self, answer: Answer, found: Found) -> Answer:
        name = answer.host
        gpus = [one.model_dump() for one in answer.result.gpus] if answer.result else []
        links = [one for one in found.links if name in one]
        blamed = claims.HOST.id if name in found.hosts else claims.LINK.id if links else ""
        number = self._shows(name, found)
        test = self.tests[number]
        checks, not_asked = test.judged(name, gpus, blamed if not test.passed else "")
        if not found.clean or not found.proven:
            checks = [*self._blame(name, found, links), *checks]
        result = self.results[number].get(name)
        made = result or answer.result
        assert made is not None
        measured = (*made.measurements, *test.measured(name))
        note = (f"{found.tests} tests across {len(self.members)} hosts in {found.rounds} rounds",)
        answered = _with(
            answer, checks, not_asked, result=result, notes=note if found.tests > 1 else ()
        )
        assert answered.result is not None
        whole = answered.result.model_copy(update={"measurements": measured[:5000]})
        return replace(answered, result=whole)

    def _shows(self, name: str, found: Found) -> int:
        """The test that a host is judged by: who is named by the first that failed with it; the
        others by the largest that passed; all by the first where nothing was proven.

        Where a rank failed by its own doing, that stays a finding though it may not come again.
        """
        first = self.tests[0]
        own = any(one["state"] in ("died", "raised") for one in first.ranks[name])
        mine = [at for at, one in enumerate(self.tests) if name in one.members]
        good = [at for at in mine if self.tests[at].passed]
        if name in found.hosts or own or not good or not found.proven:
            return mine[0]
        return max(good, key=lambda at: len(self.tests[at].members))

    def _blame(self, name: str, found: Found, links: Sequence[Group]) -> list[CheckResult]:
        """nodes.host and nodes.link of one host."""
        host, link = Look(claims.HOST), Look(claims.LINK)
        failed = [one for one in self.tests if name in one.members and not one.passed]
        pairs = [one for one in failed if len(one.members) == 2]
        with_whom = sorted({other for one in pairs for other in one.members} - {name})
        lines = [line for one in (pairs or failed)[:3] for line in one.culprits()[:2]]
        wanted = "trains with every known-good partner"
        if found.nobody_good:
            why = (
                f"no two of {len(self.members)} hosts train together, so nobody is known to be "
                "good: look at what they share (network, firewall, torch), or add a host that works"
            )
            host.unknown(HOST, "training with a known-good partner", why=why, evidence=lines)
        elif name in found.hosts:
            silent = [one.silent[name] for one in failed if name in one.silent]
            busy = bool(silent) and all("busy" in why for why in silent)
            if busy:
                host.unknown(HOST, "training with a known-good partner", why=silent[0])
            else:
                told_with = f"fails with each of {', '.join(with_whom)}"
                host.at(
                    HOST,
                    "training with known-good partners",
                    found=f"{told_with}{': ' + silent[0] if silent else ''}",
                    expected=wanted,
                    evidence=lines,
                )
        else:
            chance = [one for one in found.unconfirmed if name in one]
            for group in chance:
                others = ", ".join(sorted(group - {name})[:8])
                host.at(
                    HOST,
                    "training with known-good partners",
                    found=f"failed once with {others}, and not when tried again",
                    expected=wanted,
                    verdict="degraded",
                    action="keep",
                    evidence=lines,
                )
            if not chance:
                host.at(HOST, "training with known-good partners", found=wanted, expected=wanted)
        for pair in links:
            (other,) = pair - {name}
            link.at(
                HOST,
                f"training of {name} with {other}, each of which trains with others",
                found="fails, and failed again",
                expected="trains",
                evidence=lines,
            )
        if not links and name not in found.hosts and not found.nobody_good:
            link.at(HOST, "links to other hosts", found="none fails alone", expected=wanted,
                    held=True)  # fmt: skip
        if not found.proven and not found.nobody_good and not (links or name in found.hosts):
            why = "those that are not named did not all train together in the end"
            host.unknown(HOST, "training of all that are not named", why=why)
        return [told(one) for one in (host, link) if one.observations]
