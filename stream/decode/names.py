"""Names: turn the names of events, categories and items into small numbers.

The numbers are remembered by name in dicts of bounded size. Only text is ever a key of these dicts. Python hashes text
with a secret seed, but numbers without one: a sender who chooses the numbers could make a dict of numbers slow.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Final

import xxhash

from stream.contract.events import EventType

__all__ = ["EventKinds", "HashBuckets", "canonical", "hash_bucket"]

#: This many names are remembered with their hash bucket, none longer than this: together at most about 10 MB.
_BUCKETS_MAX: Final = 100_000
_NAME_REMEMBERED_MAX: Final = 64
#: This many spellings of event names are remembered; a shop has a few dozen.
_SPELLINGS_MAX: Final = 1_000
_HUMP: Final = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
_SEPARATORS: Final = re.compile(r"[_\-./:]+")
# A plain integer: looking up an enum member costs more than the rest of a look-up.
_OTHER: Final = int(EventType.OTHER)


def hash_bucket(name: str | int | None) -> int:
    """The hash bucket (1 to 65535) that stands for a category or item in state and tokens; 0 if there is no name.

    >>> hash_bucket("shoes"), hash_bucket(17) == hash_bucket("17"), hash_bucket("")
    (42997, True, 0)
    """
    if name is None or name == "":
        return 0
    return 1 + xxhash.xxh3_64_intdigest(str(name).encode()) % 65_535


class HashBuckets(dict[str | int | None, int]):
    """:func:`hash_bucket` as a dict that remembers the names it met since it was last emptied.

    The names in ``absent`` are none: their bucket is 0.

    >>> buckets = HashBuckets()
    >>> buckets["shoes"], buckets[None], buckets.names()
    (42997, 0, {42997: 'shoes'})
    """

    def __init__(self, absent: Iterable[str] = ()) -> None:
        self._absent: dict[str | int | None, int] = dict.fromkeys((None, "", *absent), 0)
        super().__init__(self._absent)

    def __missing__(self, name: str | int) -> int:
        text = str(name)
        bucket = self.get(text)
        if bucket is None:
            if len(self) >= _BUCKETS_MAX + len(self._absent):
                self.clear()
                self.update(self._absent)
            bucket = hash_bucket(text)
            if len(text) <= _NAME_REMEMBERED_MAX:
                self[text] = bucket
        return bucket

    def names(self) -> dict[int, str]:
        """Bucket → name, for the names that are remembered. If several share a bucket, the first one met is given."""
        return {bucket: str(name) for name, bucket in reversed(self.items()) if bucket}


def canonical(name: str) -> str:
    """An event name in one spelling: lower case, with single spaces between its words.

    >>> canonical("Order Completed"), canonical("order_completed"), canonical(" orderCompleted ")
    ('order completed', 'order completed', 'order completed')
    """
    return " ".join(_SEPARATORS.sub(" ", _HUMP.sub(" ", name)).lower().split())


class EventKinds(dict[str, int]):
    """Event name in any case → number of its :class:`EventType`, or ``ORDER_UPDATED``.

    ``types`` lists the known names in lower case. All other names are OTHER.
    """

    def __init__(self, types: Mapping[str, int]) -> None:
        super().__init__()
        self._types = {canonical(name): int(kind) for name, kind in types.items()}
        #: How often each name came that is not known. Beyond a number of names the others count as ``(others)``.
        self.unknown: Counter[str] = Counter()

    def __missing__(self, name: str) -> int:
        if name in self.unknown:
            self.unknown[name] += 1
            return _OTHER
        kind = self._types.get(canonical(name))
        if kind is None:
            return self._count_unknown(name)
        if len(self) >= _SPELLINGS_MAX:
            self.clear()
        if len(name) <= _NAME_REMEMBERED_MAX:
            self[name] = kind
        return kind

    def _count_unknown(self, name: str) -> int:
        is_kept = len(name) <= _NAME_REMEMBERED_MAX and len(self.unknown) < _SPELLINGS_MAX
        self.unknown[name if is_kept else "(others)"] += 1
        return _OTHER
