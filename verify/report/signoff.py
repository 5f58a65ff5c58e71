"""Sign-off of level deep: what was proven of each host, for how long, and what was not. Pure."""

from collections import defaultdict
from collections.abc import Iterator

from verify.checks import BY_NAME, LEVELS
from verify.report.groups import part_name
from verify.report.markup import Html, tag
from verify.report.screen import Line
from verify.report.telling import STYLE, wrapped
from verify.report.view import View
from verify.results import HostResult, HostVerification, Measurement

DEEP = LEVELS[-1]
AT = "at_s"
"""The condition of a measurement that makes it a point of a curve."""
MOST_HOSTS = 64
MOST_CURVES = 64
WIDTH, HEIGHT = 240, 60
TOTALS = ("soak.seconds", "soak.memory-tested", "soak.memory-rounds", "soak.products",
          "soak.replays")  # fmt: skip


def signed(view: View) -> list[HostVerification]:
    """The hosts that answered to level deep."""
    return [one for one in view.hosts.values() if one.result and one.result.level == DEEP]


def statements(one: HostVerification, view: View) -> list[tuple[str, list[str]]]:
    """Headings and lines of one host's sign-off."""
    result = one.result
    assert result is not None
    levels = f"level {BY_NAME[0]}", f"level {BY_NAME[1]}"  # asked by name alone: no part of deep
    proven = [check for check in result.checks if check.verdict == "pass"]
    rest = [check for check in result.checks if check.verdict != "pass"]
    unproven = [f"{check.id}: {check.verdict}: {check.claim}" for check in rest]
    unproven += [
        f"{skipped.id}: not asked: {skipped.reason}"
        for skipped in result.not_asked
        if not skipped.reason.startswith(levels)
    ]
    return [
        ("Verdict", [f"{one.verdict}; {_when(result, view)}", *_reservations(result)]),
        ("Hardware", _hardware(result)),
        ("Under which software", _software(result)),
        ("Under load", _totals(result)),
        (f"Proven ({len(proven)})", [f"{check.id}: {check.claim}" for check in proven]),
        (f"Not proven ({len(unproven)})", unproven),
    ]


def _when(result: HostResult, view: View) -> str:
    return f"{result.started}, run {view.run.id}, asked by {view.run.controller}"


def _reservations(result: HostResult) -> list[str]:
    lines = ["SIMULATED HARDWARE: this says nothing about real GPUs"] * result.simulated
    if any(one.conditions.get("device") == "cpu" for one in result.measurements):
        lines.append("torch is the CPU build: the soak loaded the CPU, and no GPU")
    lines += [line for line in result.information if line.startswith("the soak was changed")]
    return lines


def _hardware(result: HostResult) -> list[str]:
    lines = [f"{result.host} ({result.hostname}), boot {result.boot_id}"]
    for gpu in result.gpus:
        board = ", ".join(f"{key} {text}" for key, text in gpu.board.items())
        text = f"GPU {gpu.index}: {gpu.name}, serial {gpu.serial or 'unknown'}, {gpu.uuid}, "
        lines.append(f"{text}slot {gpu.slot}" + (f", {board}" if board else ""))
    return lines


def _software(result: HostResult) -> list[str]:
    software = ", ".join(f"{name} {version}" for name, version in result.software.items())
    expected = f"expected state from {result.expected_from}, stack {result.stack or 'none'}"
    return [
        *([software] if software else []),
        expected,
        f"Python {result.python}, as {result.user}; bundle {result.bundle[:16]}",
    ]


def _totals(result: HostResult) -> list[str]:
    found: dict[str, list[str]] = defaultdict(list)
    for one in result.measurements:
        if one.name in TOTALS:
            found[part_name(one.component)].append(f"{one.value:g} {one.unit} {one.name}")
    return [f"{part}: {', '.join(lines)}" for part, lines in found.items()]


def curves(result: HostResult) -> dict[tuple[str, str, str], list[tuple[float, float]]]:
    """Figure, unit and part -> its points over the seconds of the soak."""
    found: dict[tuple[str, str, str], list[tuple[float, float]]] = defaultdict(list)
    for one in result.measurements:
        at = second(one)
        if at is not None:
            found[one.name, one.unit, part_name(one.component)].append((at, one.value))
    return {key: sorted(points) for key, points in found.items() if len(points) > 1}


def second(one: Measurement) -> float | None:
    """The second of the soak that a figure belongs to; None when it is no point of a curve."""
    try:
        return float(one.conditions[AT])
    except (KeyError, ValueError):
        return None


# ---- HTML


def section(view: View) -> Html | None:
    """The sign-off of every host; None when level deep was not asked."""
    hosts = signed(view)
    if not hosts:
        return None
    parts = [_host(one, view) for one in hosts[:MOST_HOSTS]]
    more = len(hosts) - MOST_HOSTS
    rest = tag("p", f"and {more} more hosts, in the JSON") if more > 0 else None
    return tag("section", tag("h2", "Level deep: sign-off"), parts, rest, id="sign-off")


def _host(one: HostVerification, view: View) -> Html:
    assert one.result is not None
    told = [
        [tag("h4", title), tag("ul", [tag("li", line) for line in lines])]
        for title, lines in statements(one, view)
        if lines
    ]
    drawn = list(curves(one.result).items())[:MOST_CURVES]
    pictures = tag("div", [_curve(key, points) for key, points in drawn], class_="plots")
    signature = tag("p", "Signed: ____________________    Date: ____________", class_="soft")
    title = f"{one.host}: {one.verdict}"
    return tag("details", tag("summary", title), told, pictures, signature, open=True)


def _curve(key: tuple[str, str, str], points: list[tuple[float, float]]) -> Html:
    name, unit, part = key
    low, high = (pick(value for _, value in points) for pick in (min, max))
    begin, end = points[0][0], points[-1][0]
    across = [WIDTH * _share(at, begin, end) for at, _ in points]
    down = [HEIGHT - 4 - (HEIGHT - 8) * _share(value, low, high) for _, value in points]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in zip(across, down, strict=True))
    line = tag("polyline", points=path, fill="none", stroke="currentColor")
    box = f"0 0 {WIDTH} {HEIGHT}"
    said = f"{low:.4g} to {high:.4g} {unit}, from {begin:g} to {end:g} s"
    return tag(
        "figure",
        tag("figcaption", tag("b", f"{name} {part}".strip()), " ", tag("span", said)),
        tag("svg", line, viewBox=box, width="100%", height=str(HEIGHT), role="img"),
    )


def _share(value: float, low: float, high: float) -> float:
    return (value - low) / (high - low) if high > low else 0.5


# ---- terminal


def lines(view: View, width: int) -> Iterator[Line]:
    """The sign-off for a terminal, without its curves."""
    for one in signed(view)[:MOST_HOSTS]:
        yield "", ""
        yield f"bold {STYLE[one.verdict]}", f"sign-off of {one.host}"
        for title, said in statements(one, view):
            if said:
                yield "bold", f"  {title}"
            for line in said:
                yield from wrapped("", line, width, "    ", 2)
        yield "", "  Signed: ____________________    Date: ____________"
