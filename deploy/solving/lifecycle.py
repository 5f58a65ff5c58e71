"""What is to be known of a driver version on a day, and of user space beside it."""

from collections.abc import Iterator
from datetime import date

from deploy.catalog.models import Catalogue, numbers
from deploy.solving.offers import upstream
from deploy.solving.situation import Situation


def lifecycle(version: str, seen: Situation, catalogue: Catalogue, today: date) -> Iterator[str]:
    """What is to be known of a driver version on this day: its branch's end, known faults."""
    branch = numbers(version)[0]
    row = catalogue.branch.get(branch)
    if row is None:
        yield f"driver branch {branch} is not in the catalogue: its end of life is not known"
        return
    if row.ended:
        yield f"driver branch {branch} has reached its end of life"
    elif row.end_of_life and row.end_of_life < f"{today:%Y-%m}":
        yield f"driver branch {branch} reached its end of life in {row.end_of_life}"
    elif row.end_of_life is None:
        yield f"driver branch {branch}: its end of life is not known"
    kinds = {kind.name for kind in seen.kinds(catalogue)}
    for notice in catalogue.driver_notices:
        older = numbers(version) < numbers(notice.fixed)
        if notice.branch == branch and notice.architecture in kinds and older:
            yield f"driver {version}: {notice.text}"


def mismatched(seen: Situation, version: str, catalogue: Catalogue) -> list[str]:
    """User-space packages at another version than the driver, as "name version"."""
    installed = dict(seen.installed)
    return [
        f"{name} {upstream(installed[name])}"
        for name in seen.names(catalogue, version).coherent
        if name in installed and upstream(installed[name]) != version
    ]
