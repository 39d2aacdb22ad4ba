"""Named array types: what each array holds, in which dtype. All are one-dimensional unless a docstring says otherwise.

A signature with ``Rows`` and ``Seconds`` says more than one with two arrays. mypy checks the dtype; the shape stands in
the docstring of the function.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "BucketRows",
    "Bytes",
    "Codes",
    "Counts",
    "EventRows",
    "EventTimes",
    "FeatureRows",
    "Floats",
    "Hashes",
    "HistoryRows",
    "Instants",
    "Mask",
    "Numbers",
    "Offsets",
    "Opaque",
    "OrderNotes",
    "OrderRows",
    "Probabilities",
    "RawOutputs",
    "Rows",
    "Rows32",
    "Seconds",
    "Slots",
    "TokenRows",
    "UserRows",
]

#: Row numbers of users in the state of a partition, or of examples in a data set.
Rows: TypeAlias = NDArray[np.int64]
#: The same in 32 bits, where one is stored for every user.
Rows32: TypeAlias = NDArray[np.int32]
#: Places inside another array: slots of a ring, starts of runs, indices.
Slots: TypeAlias = NDArray[np.int64]
#: How many of something there are; sizes in bytes count as well.
Counts: TypeAlias = NDArray[np.int64]
#: Event times or ages, in whole seconds (times: since 1970, UTC).
Seconds: TypeAlias = NDArray[np.int64]
#: Event times as user state keeps them, in whole seconds since 1970, UTC.
EventTimes: TypeAlias = NDArray[np.uint32]
#: Wall-clock or monotonic times in seconds, with fractions.
Instants: TypeAlias = NDArray[np.float64]
#: Offsets of records in a Kafka partition.
Offsets: TypeAlias = NDArray[np.int64]
#: Which elements are meant.
Mask: TypeAlias = NDArray[np.bool_]
#: 64-bit hashes: identities of events, hashes of user ids.
Hashes: TypeAlias = NDArray[np.uint64]
#: Small whole numbers that each stand for something: priorities, bands, idle stages, event types.
Codes: TypeAlias = NDArray[np.uint8]
#: Single bytes.
Bytes: TypeAlias = NDArray[np.uint8]
#: Items of raw bytes (dtype ``V<n>``), copied and compared without a look inside.
Opaque: TypeAlias = NDArray[np.void]

#: Decoded events: dtype ``EVENT``.
EventRows: TypeAlias = NDArray[np.void]
#: The orders that decoded events name: dtype ``ORDER_NOTE``.
OrderNotes: TypeAlias = NDArray[np.void]
#: Orders of users: dtype ``ORDER``, often ``(n, ORDERS_LEN)``.
OrderRows: TypeAlias = NDArray[np.void]
#: The columns of users: dtype ``USER``.
UserRows: TypeAlias = NDArray[np.void]
#: Events of histories: dtype ``HISTORY``, often ``(n, HISTORY_LEN)``.
HistoryRows: TypeAlias = NDArray[np.void]
#: Buckets of counts: dtype ``BUCKET``, often ``(n, BUCKET_SLOTS)``.
BucketRows: TypeAlias = NDArray[np.void]

#: Tokens of histories, ``(n, positions, channels)``, or of texts, ``(n, positions)``: what a BERT reads.
TokenRows: TypeAlias = NDArray[np.int32]
#: Numeric features, ``(n, features)``.
FeatureRows: TypeAlias = NDArray[np.float32]
#: Numbers as a model returns them, in single precision: logits, mu and log-sigma, sentiments.
RawOutputs: TypeAlias = NDArray[np.float32]
#: Probabilities from 0 to 1.
Probabilities: TypeAlias = NDArray[np.float64]
#: Real numbers of any other kind: values in money, log-odds, weights, losses.
Floats: TypeAlias = NDArray[np.float64]
#: Numbers of whichever dtype the caller has; the function keeps it.
Numbers: TypeAlias = NDArray[Any]
