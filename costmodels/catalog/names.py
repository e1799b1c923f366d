"""From what people write ("A100-SXM4-80GB", "rtx 4090", "910B") to catalogue ids.

A name is cut into words. It means a chip when it is one of the chip's full names (with or without
vendor and family words), or when its words, which must include a model number, belong to exactly
one chip. A memory size or a form factor is never guessed: "A100" fits several chips.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from dataclasses import dataclass

from costmodels.catalog.errors import AmbiguousChip, UnknownChip

_VENDORS = (
    "nvidia", "huawei", "baidu", "hygon", "cambricon", "biren", "moorethreads", "metax",
    "enflame", "iluvatar", "amd", "intel", "google", "aws",
)  # fmt: skip
_FAMILIES = (
    "ascend", "kunlun", "dcu", "mtt", "rtx", "gtx", "tesla", "geforce", "quadro", "instinct",
    "tpu",
)  # fmt: skip
# Words that people glue to a number or to each other; split off before comparing.
_GLUED = re.compile(
    r"(ascend|kunlun|geforce|tesla|quadro|instinct|rtx|gtx|ada|sxm\d?|pcie|nvl|oam)"
)
_MEMORY = re.compile(r"^(\d+)g(?:i?b)?$")


def _words(name: str) -> tuple[str, ...]:
    spaced = _GLUED.sub(r" \1 ", name.lower())
    words = []
    for word in re.split(r"[^a-z0-9]+", spaced):
        if memory := _MEMORY.match(word):
            words.append(f"{memory[1]}gb")
        elif word.startswith("sxm"):
            words.append("sxm")
        elif word:
            words.append(word)
    return tuple(words)


def _compact(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _is_model_number(word: str) -> bool:
    return any(c.isdigit() for c in word) and not _MEMORY.match(word)


def _without_prefixes(chip_id: str) -> list[str]:
    """The id, the id without its vendor, and without its family words as well."""
    forms = [chip_id]
    parts = chip_id.split("-")
    for prefixes in (_VENDORS, _FAMILIES):
        if len(parts) > 1 and parts[0] in prefixes:
            parts = parts[1:]
            forms.append("-".join(parts))
    return forms


def short_name(chip_id: str) -> str:
    """The alias that people read: ``nvidia-a100-sxm-80gb`` becomes ``A100-SXM-80GB``."""
    parts = chip_id.split("-")
    if len(parts) > 1 and parts[0] in _VENDORS:
        parts = parts[1:]
    if len(parts) > 1 and parts[0] in ("ascend", "dcu"):
        parts = parts[1:]
    return "-".join(p.capitalize() if p in ("ada", "kunlun", "die") else p.upper() for p in parts)


@dataclass(frozen=True)
class NameIndex:
    """All names of the given chip ids."""

    ids: tuple[str, ...]
    full: dict[str, tuple[str, ...]]
    words: dict[str, frozenset[str]]
    required: dict[str, frozenset[str]]

    @classmethod
    def of(cls, ids: Iterable[str]) -> NameIndex:
        """Index of these ids, in sorted order."""
        ordered = tuple(sorted(ids))
        full: dict[str, tuple[str, ...]] = {}
        for chip_id in ordered:
            forms = [*_without_prefixes(chip_id), short_name(chip_id)]
            spelled = [*map(_compact, forms), *("-".join(_words(f)) for f in forms)]
            for form in dict.fromkeys(spelled):
                full[form] = (*full.get(form, ()), chip_id)
        words = {i: frozenset(_words(i)) for i in ordered}
        return cls(ordered, full, words, {i: _series(i) for i in ordered})

    def find(self, name: str) -> tuple[str, ...]:
        """Ids that the name may mean: one if it is unambiguous, none if it is unknown."""
        if name.lower() in self.words:
            return (name.lower(),)
        asked = _words(name)
        for form in (_compact(name), "-".join(asked)):
            if form in self.full:
                return self.full[form]
        if not any(map(_is_model_number, asked)):
            return ()
        words = set(asked)
        exact = tuple(i for i in self.ids if self.required[i] <= words <= self.words[i])
        return exact or self._bins(asked)

    def _bins(self, asked: tuple[str, ...]) -> tuple[str, ...]:
        """Ids whose model number continues the asked one ("910b" for the bins 910b1 ... 910b4).

        One continuation is another product (MI250 is not MI250X), several are bins to choose from.
        """

        def continues(chip_id: str) -> bool:
            return self.required[chip_id] <= set(asked) and all(
                any(w == a or (_is_model_number(a) and w.startswith(a)) for w in words[chip_id])
                for a in asked
            )

        words = self.words
        found = tuple(i for i in self.ids if continues(i))
        return found if len(found) > 1 else ()

    def resolve(self, name: str) -> str:
        """The one id that the name means. UnknownChip or AmbiguousChip otherwise."""
        found = self.find(name)
        if len(found) == 1:
            return found[0]
        if found:
            raise AmbiguousChip(name, [short_name(i) for i in found])
        raise UnknownChip(name, self.nearest(name))

    def nearest(self, name: str, count: int = 4) -> list[str]:
        """Short names that look most like the given one, best first."""
        asked = [w for w in _words(name) if _is_model_number(w)]
        scored = sorted((-_likeness(asked, self.words[i]), short_name(i)) for i in self.ids)
        return [alias for score, alias in scored[:count] if score <= -0.66]


def _series(chip_id: str) -> frozenset[str]:
    """Words before the model number that tell products apart: "bi" of BI-V100, not "rtx"."""
    words: list[str] = []
    for word in _words(chip_id):
        if _is_model_number(word):
            break
        if word not in _VENDORS and word not in _FAMILIES:
            words.append(word)
    return frozenset(words)


def _likeness(asked: list[str], words: frozenset[str]) -> float:
    """Mean over the asked model words of their likeness to the nearest word, in [0, 1]."""
    if not asked:
        return 0.0
    return sum(
        max(difflib.SequenceMatcher(None, a, w).ratio() for w in sorted(words)) for a in asked
    ) / len(asked)
