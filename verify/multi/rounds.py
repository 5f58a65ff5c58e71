"""Which host or link makes training across hosts fail: adaptive group testing. Pure.

A test is a set of hosts that train together; it fails when a bad host is in it, or both ends of a
bad link. Tests of one round run at the same time, so no host is in two of them. The search:

  all             one test; when it passes, that is all
  groups          of about sqrt(N); who trained in one that passes is known to be good
  suspects        the members of groups that fail: each with a known-good partner; in halves first
                  where there are more suspects than partners
  links           two sets that are good in themselves and fail together are halved crosswise
  proof           everybody who is not named trains together

Nobody is named on one test: a host must fail with two different known-good partners, a link twice,
between hosts that are good with others. What fails once and then not is said to be unconfirmed.

Each question of the search is a generator that yields the tests that it needs and gets what came of
them; whoever is ready asks in the same round.
"""

import math
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass, field

ROUNDS_WITHOUT_GOOD = 8
"""Rounds of pairs in which somebody is looked for who trains with anybody. Of hosts of which half
are bad, a pair is good with a chance of 1 in 4: no pair of 8 rounds of 4 is good once in 10,000."""
PROOFS = 6
"""How often the search begins anew with what its own proof showed."""

Group = frozenset[str]
Oracle = Callable[[Sequence[Group]], Sequence[bool]]
"""Runs one round of tests, and says of each whether it passed."""


@dataclass(frozen=True)
class Test:
    """What a question wants to know: whether these train together, or with a known-good partner."""

    hosts: Group
    partner: bool = False
    avoid: Group = frozenset()
    """Who is no partner for it."""
    first: bool = False
    """Asked of who may have turned out to be good by now: then it need not be made."""


@dataclass(frozen=True)
class Came:
    """What came of a test."""

    passed: bool
    partner: str = ""


Question = Generator[list[Test], list[Came], None]


@dataclass
class Waiting:
    """A question, the tests that it needs, and what has come of them so far."""

    question: Question
    tests: list[Test]
    came: dict[int, Came] = field(default_factory=dict)

    @property
    def left(self) -> list[int]:
        """Which of its tests are still to be made."""
        return [at for at in range(len(self.tests)) if at not in self.came]


@dataclass
class Found:
    """Who is at fault, and what it took to know."""

    hosts: set[str] = field(default_factory=set)
    links: set[Group] = field(default_factory=set)
    unconfirmed: set[Group] = field(default_factory=set)
    """Failed once, and not when they were tried again: hosts, pairs, or a set."""
    good: set[str] = field(default_factory=set)
    """Trained with others, and are known to be able to."""
    nobody_good: bool = False
    """No two hosts train together: what they share is at fault, or they all are."""
    proven: bool = False
    """All who are not named trained together in the end."""
    tests: int = 0
    rounds: int = 0

    @property
    def clean(self) -> bool:
        """Nothing was found to be at fault."""
        return not (self.hosts or self.links or self.unconfirmed or self.nobody_good)


def isolate(hosts: Iterable[str], oracle: Oracle, *, failed: bool = False) -> Found:
    """Find who is at fault. `failed`: all together have just failed, and need not be tried again.

    Raises ValueError for fewer than two hosts. Exact for hosts and links that always fail, as long
    as two good hosts train with each other and no host has two bad links: such a host fails with
    two partners, and is named itself. Of one that fails now and then no other host is ever named.
    """
    everyone = sorted(set(hosts))
    if len(everyone) < 2:
        raise ValueError("fewer than two hosts are no fleet to train across")
    search = _Search(everyone, oracle)
    if not failed and search.round([Group(everyone)])[0]:
        search.found.proven = True
        return search.found
    search.run()
    return search.found


class _Search:
    def __init__(self, everyone: list[str], oracle: Oracle) -> None:
        self.everyone, self.oracle = everyone, oracle
        self.found = Found()
        self.used: dict[str, int] = dict.fromkeys(everyone, 0)
        """In how many tests each host was a partner: the least used is next."""
        self.waiting: list[Waiting] = []
        self.sets: list[Group] = []
        """Sets that passed, to be put together again."""
        self.pairs_tried = 0
        self.passed: set[Group] = set()
        self.failing: set[Group] = {Group(everyone)}
        self.failed: dict[str, set[str]] = {name: set() for name in everyone}
        """Host -> with whom it has failed, two by two."""

    # ---- rounds

    def round(self, groups: Sequence[Group]) -> list[bool]:
        """Run tests at the same time; whoever passes is known to be good."""
        passed = list(self.oracle(groups))
        self.found.rounds += 1
        self.found.tests += len(groups)
        for group, well in zip(groups, passed, strict=True):
            if well:
                self.found.good |= group
                self.passed.add(group)
                continue
            self.failing.add(group)
            if len(group) == 2:
                one, other = group
                self.failed[one].add(other)
                self.failed[other].add(one)
        return passed

    def ask(self, question: Question) -> None:
        """Begin a question: it waits with the first tests that it needs."""
        self._goes_on(question, None)

    def _goes_on(self, question: Question, came: list[Came] | None) -> None:
        try:
            tests = next(question) if came is None else question.send(came)
            while not tests:
                tests = question.send([])
        except StopIteration:
            return
        self.waiting.append(Waiting(question, tests))

    def answer_all(self) -> bool:
        """Round after round until no question waits; False when nobody is known to be good."""
        while self.waiting:
            chosen = self._chosen()
            if chosen:
                passed = self.round([group for _, _, group, _ in chosen])
                for (one, at, _, partner), well in zip(chosen, passed, strict=True):
                    one.came[at] = Came(well, partner)
            elif not self._somebody_good():
                return False
            for one in self.waiting:
                for at in one.left:
                    if one.tests[at].first and one.tests[at].hosts <= self.found.good:
                        one.came[at] = Came(True)
            done = [one for one in self.waiting if not one.left]
            self.waiting = [one for one in self.waiting if one.left]
            for one in done:
                self._goes_on(one.question, [one.came[at] for at in range(len(one.tests))])
        return True

    def _chosen(self) -> list[tuple[Waiting, int, Group, str]]:
        """The tests of the next round: as many as have their hosts, and a partner, to themselves.

        What takes no choice goes first: a partner for the others is easily found elsewhere.
        """
        busy: set[str] = set()
        chosen = []
        wanted = [(one, at) for one in self.waiting for at in one.left]
        for one, at in sorted(wanted, key=lambda pair: pair[0].tests[pair[1]].partner):
            test, partner = one.tests[at], ""
            if not busy.isdisjoint(test.hosts):
                continue
            if test.partner:
                taken = busy | test.hosts | test.avoid
                able = [name for name in self.found.good - self.found.hosts if name not in taken]
                partner = min(able, key=lambda name: (self.used[name], name), default="")
                if not partner:
                    continue
                self.used[partner] += 1
            group = test.hosts | ({partner} if partner else set())
            busy |= group
            chosen.append((one, at, Group(group), partner))
        return chosen

    def _somebody_good(self) -> bool:
        """Pairs of all who are not judged yet, each round others, until one of them passes."""
        able = [one for one in self.everyone if one not in self.found.hosts]
        rounds = round_robin(able)
        before = len(self.found.good)
        while self.pairs_tried < min(len(rounds), ROUNDS_WITHOUT_GOOD):
            self.round(rounds[self.pairs_tried])
            self.pairs_tried += 1
            if len(self.found.good) > before:
                return True
        return False

    # ---- the search

    def run(self) -> None:
        groups = [one for one in sized(self.everyone) if len(one) < len(self.everyone)]
        self.sets = []
        if groups:
            passed = self.round(groups)
            self.sets = [one for one, well in zip(groups, passed, strict=True) if well]
            suspects = [one for one, well in zip(groups, passed, strict=True) if not well]
        else:
            suspects = [Group(self.everyone)]
        for group in suspects:
            self.ask(self.examine(group, len(suspects)))
        if not self.answer_all():
            self.found.nobody_good = True
            return
        self.prove()

    def examine(self, group: Group, groups: int) -> Question:
        """A set that failed: who of it is at fault."""
        rest = group - self.found.good
        if len(rest) > 1 and groups * len(rest) > 2 * len(self.found.good):
            halves = halved(rest)
            for half in halves:
                self.ask(self.half(half, groups))
            return
        for one in sorted(rest):
            self.ask(self.suspect(one))
        yield from ()

    def half(self, group: Group, groups: int) -> Question:
        """Half of a set that failed, not yet tried."""
        if len(group) == 1:
            (one,) = group
            yield from self.suspect(one)
            return
        (came,) = yield [Test(group)]
        if came.passed:
            self.sets.append(group)
        else:
            yield from self.examine(group, groups)

    def suspect(self, one: str) -> Question:
        """A single host, beside partners that are known to be good."""
        if one in self.found.good:
            return
        with_good = sorted(self.failed[one] & self.found.good)
        if not with_good:
            (first,) = yield [Test(Group({one}), partner=True, first=True)]
            if first.passed:
                return
            with_good = sorted(self.failed[one] & self.found.good)
        if len(with_good) < 2:
            (second,) = yield [Test(Group({one}), partner=True, avoid=Group(with_good))]
            if second.passed:
                yield from self.link(one, with_good[0])
                return
        self.found.hosts.add(one)

    def link(self, one: str, other: str) -> Question:
        """Two hosts that failed together and are good with others: once more."""
        pair = Group({one, other})
        if pair in self.found.links | self.found.unconfirmed:
            return
        (again,) = yield [Test(pair)]
        (self.found.unconfirmed if again.passed else self.found.links).add(pair)

    def cross(self, left: Group, right: Group) -> Question:
        """Two sets, each good in itself, that fail together: the link between them."""
        if len(left) == len(right) == 1:
            (one,), (other,) = left, right
            yield from self.link(one, other)
            return
        lefts, rights = halved(left), halved(right)
        failed = []
        for turn in range(max(len(lefts), len(rights))):
            # A diagonal: no two of its corners have a host in common, where both sides have halves.
            corners = [
                (a, rights[(at + turn) % len(rights)])
                for at, a in enumerate(lefts if len(rights) > 1 else lefts[turn : turn + 1])
            ]
            came = yield [Test(a | b) for a, b in corners]
            failed = [one for one, each in zip(corners, came, strict=True) if not each.passed]
            if failed:  # what else there is, the proof will show
                break
        for a, b in failed:
            self.ask(self.cross(a, b))
        if not failed:
            self.found.unconfirmed.add(left | right)

    def prove(self) -> None:
        """All who are not named train together; as long as they do not, look for what is between
        them."""
        for _ in range(PROOFS):
            named = len(self.found.hosts) + len(self.found.links)
            wholes = self.wholes()
            failing = [one for one in wholes if one in self.failing or not self.passes(one)]
            if not failing:
                self.found.proven = True
                return
            for whole in failing:
                self.ask(self.between(self.parts_of(whole)))
            if not self.answer_all():
                return
            if named == len(self.found.hosts) + len(self.found.links):
                break
        self.found.proven = all(self.passes(one) for one in self.wholes())

    def passes(self, group: Group) -> bool:
        return len(group) < 2 or group in self.passed or self.round([group])[0]

    def wholes(self) -> list[Group]:
        """Everybody but bad hosts, without one end of each bad link; then without the other."""
        rest = set(self.everyone) - self.found.hosts
        ends = [sorted(link) for link in sorted(self.found.links, key=sorted)]
        found = [Group(rest - {pair[at] for pair in ends}) for at in (0, 1)]
        return list(dict.fromkeys(found))

    def parts_of(self, whole: Group) -> list[Group]:
        """The sets that have passed, and each other host by itself."""
        parts: list[Group] = []
        seen: set[str] = set()
        for one in self.sets:
            part = (one & whole) - seen
            if part:
                parts.append(Group(part))
                seen |= part
        return parts + [Group({one}) for one in sorted(whole - seen)]

    def between(self, parts: list[Group]) -> Question:
        """Sets that are good in themselves and fail together."""
        if len(parts) < 2:
            return
        middle = (len(parts) + 1) // 2
        sides = parts[:middle], parts[middle:]
        wholes = [Group().union(*side) for side in sides]
        tried = [(side, whole) for side, whole in zip(sides, wholes, strict=True) if len(side) > 1]
        came = yield [Test(whole) for _, whole in tried]
        failed = [side for (side, _), each in zip(tried, came, strict=True) if not each.passed]
        for side in failed:
            self.ask(self.between(side))
        if not failed:
            yield from self.cross(*wholes)


def sized(hosts: Sequence[str]) -> list[Group]:
    """Groups of about sqrt(N), none of fewer than two."""
    count = max(1, min(len(hosts) // 2, round(math.sqrt(len(hosts)))))
    return [Group(hosts[at::count]) for at in range(count)]


def halved(group: Group) -> list[Group]:
    """Two halves; of a single host that host alone."""
    names = sorted(group)
    middle = (len(names) + 1) // 2
    return [Group(part) for part in (names[:middle], names[middle:]) if part]


def round_robin(hosts: Sequence[str]) -> list[list[Group]]:
    """Every pair once, in rounds in which each host has one partner (the circle method)."""
    circle: list[str | None] = [*hosts, *([None] if len(hosts) % 2 else [])]
    rounds = []
    for _ in range(len(circle) - 1):
        half = len(circle) // 2
        pairs = zip(circle[:half], reversed(circle[half:]), strict=True)
        rounds.append([Group({a, b}) for a, b in pairs if a is not None and b is not None])
        circle = [circle[0], circle[-1], *circle[1:-1]]
    return rounds
