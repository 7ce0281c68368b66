"""The search for a network's tensors in the content of a file.

A training script rarely saves the plain state_dict of its network. It puts the tensors beside an optimizer, under a key
of its choice, a second time as a moving average, and behind the prefixes of wrappers (`module.`, `model.`,
`backbone.`). No list of such names is kept here. Every table of tensors in the file, with every prefix that stands in
front of names of the network, is a candidate, and the one with most of the network's tensors is taken.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

_DEEPEST = 4  # tables within tables
_MOST_PREFIXES = 8  # of one table
_NAMES_SHOWN, _LONGEST = 3, 80  # letters of a name
_COPY = re.compile(r"ema|averag|momentum|encoder_k|shadow|teacher", re.IGNORECASE)
_OLD_DENSENET = re.compile(r"(denselayer\d+\.(?:norm|conv))\.([12]\.)")
"""torchvision's published DenseNets have norm.1 for norm1; its own loader renames them while it downloads."""


@dataclass(frozen=True)
class StateDict:
    """Tensors of a file by the network's own names.

    Args:
        label: the place of the tensors in the file: the keys that lead to them, and their prefix.
        tensors: the tensors behind the prefix, by what follows it.
        outside: names in the same table without the prefix.
        versions: the version of each module, where torch saved them.
    """

    label: str
    tensors: Mapping[str, Tensor]
    outside: tuple[str, ...]
    versions: Mapping[str, Any]

    def rank(self, own: Mapping[str, Tensor]) -> tuple[int, int, int]:
        """Rank by fitting tensors, by names in common, and by few other names."""
        common = [key for key in self.tensors if key in own]
        fitting = sum(own[key].shape == self.tensors[key].shape for key in common)
        return fitting, len(common), -len(self.tensors)


def find_state_dict(content: Mapping[str, Any], own: Mapping[str, Tensor]) -> tuple[StateDict | None, list[StateDict]]:
    """Return the tensors in a file that fit a network best, and others that fit it equally well.

    Of several that fit alike the first is taken, but a moving average only where there is nothing else.

    Args:
        content: tensors by name, perhaps in tables by name.
        own: the network's own state_dict.

    Returns:
        None for a file without tensors. If hardly a name is the network's, the file's largest table.
    """
    found = [one for place, table in _tables(content) for one in _behind_prefixes(place, table, own)]
    if not found:
        return None, []
    best = max(found, key=lambda one: (*one.rank(own), not _COPY.search(one.label)))
    if 2 * best.rank(own)[1] < len(own):
        return max((one for one in found if not one.outside), key=lambda one: len(one.tensors)), []
    return best, [one for one in found if one is not best and one.rank(own) == best.rank(own)]


def _tables(content: Any, place: tuple[str, ...] = ()) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield each table of tensors with its place, outer tables first."""
    if not isinstance(content, Mapping) or len(place) > _DEEPEST:
        return
    if any(isinstance(key, str) and isinstance(value, Tensor) for key, value in content.items()):
        yield ".".join(place), content
    for key, value in content.items():
        yield from _tables(value, (*place, str(key)))


def _behind_prefixes(place: str, table: Mapping[str, Any], own: Mapping[str, Tensor]) -> Iterator[StateDict]:
    """Yield the table's tensors as they are, and behind each prefix that stands before names of the network."""
    tensors = {
        _OLD_DENSENET.sub(r"\1\2", key): value
        for key, value in table.items()
        if isinstance(key, str) and isinstance(value, Tensor)
    }
    prefixes = Counter(key[:end] for key in tensors for end in _starts(key) if key[end:] in own)
    versions = getattr(table, "_metadata", None)
    for prefix in dict.fromkeys(["", *(prefix for prefix, _ in prefixes.most_common(_MOST_PREFIXES))]):
        yield StateDict(
            label=".".join(part for part in (place, prefix.removesuffix(".")) if part),
            tensors={key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)},
            outside=tuple(key for key in tensors if not key.startswith(prefix)),
            versions=_within(prefix, versions) if isinstance(versions, Mapping) else {},
        )


def _starts(key: str) -> Iterator[int]:
    """Yield where each part of a dotted name starts."""
    yield 0
    yield from (match.end() for match in re.finditer(r"\.", key))


def _within(prefix: str, versions: Mapping[str, Any]) -> dict[str, Any]:
    return {
        f"{module}."[len(prefix) :].removesuffix("."): version
        for module, version in versions.items()
        if not prefix or f"{module}.".startswith(prefix)
    }


def listed(names: Iterable[str]) -> str:
    """Return the first few names, and how many more there are, fit for a terminal: a file may hold any text."""
    every = ["".join(letter if letter.isprintable() else "\ufffd" for letter in name[:_LONGEST]) for name in names]
    more = len(every) - _NAMES_SHOWN
    return ", ".join(every[:_NAMES_SHOWN]) + (f" and {more} more" if more > 0 else "")
