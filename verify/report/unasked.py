"""What was not asked, folded by its reason. Pure."""

from collections import defaultdict

from verify.report.view import View


def unasked(view: View) -> list[tuple[str, list[str], list[str]]]:
    """Reason, checks, hosts: those that leave the most unasked first.

    Checks with one reason on the same hosts are together; one that has it on fewer hosts than
    the others stands apart.
    """
    where: dict[tuple[str, str], list[str]] = defaultdict(list)
    for result in view.results:
        for one in result.not_asked:
            where[one.reason, one.id].append(result.host)
    alike: dict[tuple[str, tuple[str, ...]], list[str]] = defaultdict(list)
    for (reason, check), hosts in where.items():
        alike[reason, tuple(hosts)].append(check)
    told = [(reason, sorted(checks), list(hosts)) for (reason, hosts), checks in alike.items()]
    return sorted(told, key=lambda one: (-len(one[1]) * len(one[2]), one[0]))
