"""The catalogue: chips by name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from costmodels.catalog.build import build_chip, resolved_record
from costmodels.catalog.chip import Chip
from costmodels.catalog.names import NameIndex, short_name
from costmodels.catalog.records import Record, merge_records, read_records, shipped_records


@dataclass(frozen=True)
class Catalog:
    """Chips by catalogue id. Build it with :func:`load_catalog`."""

    records: Mapping[str, Record]
    chips: Mapping[str, Chip]
    names: NameIndex

    @property
    def ids(self) -> tuple[str, ...]:
        """All ids, sorted."""
        return self.names.ids

    def get(self, name: str) -> Chip:
        """The chip of an id or an unambiguous alias. UnknownChip or AmbiguousChip otherwise."""
        return self.chips[self.names.resolve(name)]

    def find(self, name: str) -> list[Chip]:
        """Every chip that the name may mean: one if it is unambiguous, none if unknown."""
        return [self.chips[i] for i in self.names.find(name)]

    def nearest(self, name: str) -> list[str]:
        """Aliases that look most like a name, best first."""
        return self.names.nearest(name)

    def record(self, name: str) -> Record:
        """The stored record of a chip: every figure in its own unit, with ``sources``."""
        return self.records[self.names.resolve(name)]

    def excerpt(self, names: Iterable[str]) -> dict[str, object]:
        """JSON value of these chips alone, derived figures written down.

        ``load_catalog(excerpt)`` builds exactly the same chips, whatever the shipped data become.
        """
        ids = sorted({self.names.resolve(n) for n in names})
        return {"chips": [resolved_record(self.records[i], self.chips[i]) for i in ids]}

    @staticmethod
    def alias(chip_id: str) -> str:
        """The name that people read: ``nvidia-a100-sxm-80gb`` becomes ``A100-SXM-80GB``."""
        return short_name(chip_id)


def load_catalog(*extra: Path | Record) -> Catalog:
    """The shipped chips, with the user's own added or in their place, later ones last.

    ``extra``: JSON files or mappings, ``{"chips": [...]}`` or one record; see
    :mod:`costmodels.catalog.records` for the fields. CatalogError with every problem at once.
    """
    if not extra:
        return _shipped()
    own = [record for part in extra for record in read_records(part)]
    return _catalog(merge_records(shipped_records(), own))


@lru_cache(maxsize=1)
def _shipped() -> Catalog:
    return _catalog(shipped_records())


def _catalog(records: Mapping[str, Record]) -> Catalog:
    chips = {i: build_chip(record, records) for i, record in records.items()}
    return Catalog(records, chips, NameIndex.of(records))
