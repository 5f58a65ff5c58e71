"""Dependencies between packages, as the fields of an index say them."""

from dataclasses import dataclass

from debian.deb822 import PkgRelation

from deploy.solving.versions import compare
from deploy.stack import Packaging


@dataclass(frozen=True)
class Relation:
    """One alternative of a dependency: a name, and a version that it must stand in relation to."""

    name: str
    operator: str = ""
    version: str = ""

    def allows(self, version: str, packaging: Packaging = "apt") -> bool:
        """Whether a version stands in the wanted relation; "" is a name without a version."""
        if not self.operator:
            return True
        if not version:
            return False
        try:
            order = compare(version, self.version, packaging)
        except ValueError:  # an index may hold anything; what is no version fits nothing
            return False
        return {
            "=": order == 0,
            ">=": order >= 0,
            "<=": order <= 0,
            ">>": order > 0,
            "<<": order < 0,
        }.get(self.operator, False)

    def __str__(self) -> str:
        return f"{self.name} ({self.operator} {self.version})" if self.operator else self.name


def relations(text: str) -> tuple[tuple[Relation, ...], ...]:
    """A dependency field: groups that must all hold, of alternatives of which one must."""
    if not text:
        return ()
    return tuple(
        tuple(Relation(str(one["name"]), *(one["version"] or ("", ""))) for one in alternatives)
        for alternatives in PkgRelation.parse_relations(text)
    )
