"""The folded tables that end the HTML page: checks, what was not asked, hosts, the run. Pure."""

from collections import defaultdict

from deploy.fleet.names import fold
from verify.checks import VERDICTS
from verify.report.markup import Html, tag
from verify.report.unasked import unasked
from verify.report.view import EXCUSED, View, many, meaning
from verify.results import HostVerification


def checks(view: View) -> Html | None:
    """Every check that was asked, and how many hosts it held on."""
    claims: dict[str, str] = {}
    count: dict[str, dict[str, int]] = defaultdict(lambda: dict.fromkeys(VERDICTS, 0))
    for result in view.results:
        for check in result.checks:
            claims.setdefault(check.id, check.claim)
            count[check.id][check.verdict] += 1
    if not claims:
        return None
    rows = []
    for id, claim in claims.items():
        total = sum(count[id].values())
        bar = [
            tag("i", class_=f"bar {verdict}", style=f"width:{100 * number / total:.2f}%")
            for verdict, number in count[id].items()
            if number
        ]
        said = ", ".join(f"{n} {verdict}" for verdict, n in reversed(count[id].items()) if n)
        rows.append(
            tag(
                "tr",
                tag("td", tag("code", id)),
                tag("td", claim),
                tag("td", tag("span", bar, class_="bars"), said, class_="count"),
            )
        )
    table = tag("table", tag("tbody", rows), class_="checks")
    bad = sum(any(n for verdict, n in each.items() if verdict != "pass") for each in count.values())
    note = f"{len(claims)} asked, {len(claims) - bad} held wherever they were asked"
    return _folded("Checks", note, table)


def not_asked(view: View) -> Html | None:
    told = unasked(view)
    if not told:
        return None
    rows = [
        tag(
            "tr",
            tag("td", reason),
            tag("td", [[tag("code", id), " "] for id in ids]),
            tag("td", fold(names)),
        )
        for reason, ids, names in told
    ]
    head = tag("tr", [tag("th", name) for name in ("because", "checks", "hosts")])
    return _folded(
        "Not asked", many(len(told), "reason"), tag("table", tag("thead", head), tag("tbody", rows))
    )


def hosts(view: View) -> Html:
    """What answered, hosts with the same facts on one row."""
    alike: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for one in view.hosts.values():
        alike[_facts(one)].append(one.host)
    rows = [
        tag("tr", tag("td", fold(names)), [tag("td", fact) for fact in facts])
        for facts, names in alike.items()
    ]
    titles = ("hosts", "GPUs", "expected stack", "Python", "as user", "bundle", "notes")
    head = tag("tr", [tag("th", title) for title in titles])
    kinds = many(len(alike), "kind")
    return _folded("Hosts", kinds, tag("table", tag("thead", head), tag("tbody", rows)))


def _facts(one: HostVerification) -> tuple[str, ...]:
    result = one.result
    if result is None:
        why = one.message.removeprefix(f"{one.host}: ")
        why = f"{EXCUSED}: {one.excused} ({why})" if one.excused else why
        return (why, "", "", "", "", "; ".join(one.notes))
    count: dict[str, int] = defaultdict(int)
    for gpu in result.gpus:
        count[gpu.name] += 1
    return (
        ", ".join(f"{number}x {name}" for name, number in count.items()) or "none",
        f"{result.stack or 'none'} ({result.expected_from})",
        result.python,
        result.user,
        result.bundle[:12],
        "; ".join(one.notes),
    )


def run_facts(view: View) -> Html:
    run = view.run
    facts = {
        "run": run.id,
        "command": " ".join(run.command),
        "by": run.controller,
        "began": run.started,
        "ended": run.ended or "no end recorded",
        "exit": meaning(run),
        "inventory": run.inventory,
        "lock": run.lock or "none",
        "record": view.place,
    }
    rows = [tag("tr", tag("th", name), tag("td", fact)) for name, fact in facts.items()]
    return _folded("This run", run.id, tag("table", tag("tbody", rows), class_="facts"))


def _folded(title: str, note: str, content: Html) -> Html:
    summary = tag("summary", tag("h2", title), tag("span", note, class_="soft"))
    return tag("details", summary, tag("div", content, class_="wide"), class_="more")
