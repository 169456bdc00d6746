"""What a Table is made of: columns with upstream's names, types and order, and the function that fills a row.

Priority 1 shows with `-o wide`. Descriptions are our own, short: kubectl never prints them.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

Json = dict[str, Any]
Cells = Callable[[Json, datetime], list[Any]]


@dataclass(frozen=True, slots=True)
class Column:
    name: str
    description: str
    type: str = "string"
    format: str = ""
    priority: int = 0

    def to_dict(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "type": self.type,
            "format": self.format,
            "description": self.description,
            "priority": self.priority,
        }


@dataclass(frozen=True, slots=True)
class Printer:
    """`order` sorts the rows of a list, for the one kind that upstream does not show by name."""

    columns: tuple[Column, ...]
    cells: Cells
    order: Callable[[Json], Any] | None = None

    def definitions(self) -> list[dict[str, Any]]:
        return [one.to_dict() for one in self.columns]


Printers = dict[tuple[str, str], Printer]


def number(name: str, description: str) -> Column:
    return Column(name, description, "integer")


def boolean(name: str, description: str) -> Column:
    return Column(name, description, "boolean")


def wide(name: str, description: str) -> Column:
    return Column(name, description, priority=1)


NAME: Final = Column("Name", "Name of the object, unique among its kind and namespace.", format="name")
AGE: Final = Column("Age", "Time since the object was created.")
CREATED_AT: Final = Column("Created At", "When the object was created.", "date")
CONTAINERS: Final = (
    wide("Containers", "Names of the containers in the template."),
    wide("Images", "Images of the containers in the template."),
)
TEMPLATE: Final = (*CONTAINERS, wide("Selector", "Which pods belong to it."))


def columns(*middle: Column, after: Iterable[Column] = ()) -> tuple[Column, ...]:
    """Name, what is between, Age, and what `-o wide` adds."""
    return (NAME, *middle, AGE, *after)
