"""The columns of the state of users. They are the same in memory and in the changelog value of a user.

All dtypes are little-endian and without padding, so a packed value means the same on every machine.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from stream.contract.events import EVENT, N_TYPES

__all__ = [
    "BUCKET",
    "BUCKET_LEVELS",
    "BUCKET_SLOTS",
    "DAY_S",
    "EVENT_PARTS",
    "FRESH_USER",
    "HISTORY",
    "HISTORY_LEN",
    "HISTORY_VALUE_32",
    "IDLE_AGES_S",
    "ORDER",
    "ORDERS_LEN",
    "SEEN_LEN",
    "SENTIMENT_SCALE",
    "STATE_VERSION",
    "USER",
    "USER_BYTES",
    "WINDOWS",
]

#: Version of the packed value; a reader refuses a newer one. Version 2 added the sentiment of reviews, version 3 the
#: last orders, the currency, and amounts of 64 bits.
STATE_VERSION: Final = 3
#: This many events are kept one by one for each user: the history that the model reads.
HISTORY_LEN: Final = 64
#: This many event identities are kept for each user, to know repeated events.
SEEN_LEN: Final = 64
#: This many orders are remembered for each user who has ordered, to know what a line, an update or a refund changes.
ORDERS_LEN: Final = 8
#: Sentiments are kept as whole hundredths, so that their sum does not depend on the order of reviews.
SENTIMENT_SCALE: Final = 100

DAY_S: Final = 86_400
#: Ages of silence at which a user is scored again, in seconds (0: at the event itself).
IDLE_AGES_S: Final = np.array([0, 1, 3, 7, 14, 30], dtype=np.int64) * DAY_S

#: One event of the history. ``time`` is in whole seconds; the other fields are those of ``EVENT``.
HISTORY: Final = np.dtype([("time", "<u4"), ("value", "<i8"), ("category", "<u2"), ("item", "<u2"), ("type", "u1")])
#: The same in values of version 1 and 2.
HISTORY_VALUE_32: Final = np.dtype(
    [("time", "<u4"), ("value", "<i4"), ("category", "<u2"), ("item", "<u2"), ("type", "u1")]
)
#: What the state reads of an ``EVENT``. The last fields of an event are a ``HISTORY`` entry, byte for byte: ``entry``.
EVENT_PARTS: Final = np.dtype(
    {
        "names": ["offset", "identity", "entry", "time", "value", "type"],
        "formats": ["<i8", "<u8", f"V{HISTORY.itemsize}", "<u4", "<i8", "u1"],
        "offsets": [0, 8, 16, 16, 20, 32],
        "itemsize": EVENT.itemsize,
    }
)

#: One user. Times are event times in seconds (0: never); money is in hundredths; sentiments are in hundredths, -100 to
#: 100. New columns go last, see ``USER_BYTES``.
#:
#: - ``applied_offset``: source offset of the last event that changed the state (-1: none)
#: - ``scored_offset``: ``applied_offset`` as the last score saw it (-1: none)
#: - ``idle_stage``: index into ``IDLE_AGES_S`` of the age of silence at which that score was made
#: - ``sentiment_offset``: source offset of the last review with its sentiment in the state (-1: none)
#: - ``scored_sentiment``: ``sentiment_offset`` as the last score saw it (-1: none)
#: - ``currency``: the currency of all money of this user, as its code (empty: from before version 3)
USER: Final = np.dtype(
    [
        ("applied_offset", "<i8"),
        ("scored_offset", "<i8"),
        ("revenue", "<i8"),
        ("n_events", "<u4"),
        ("orders", "<u4"),
        ("first_time", "<u4"),
        ("last_time", "<u4"),
        ("last_order_time", "<u4"),
        ("alert_time", "<u4"),
        ("churn", "<f4"),
        ("purchase", "<f4"),
        ("ltv", "<f4"),
        ("history_len", "u1"),
        ("history_next", "u1"),
        ("seen_len", "u1"),
        ("seen_next", "u1"),
        ("idle_stage", "u1"),
        ("alert_band", "u1"),
        ("sentiment_offset", "<i8"),
        ("scored_sentiment", "<i8"),
        ("sentiment_sum", "<i8"),
        ("reviews", "<u4"),
        ("sentiment_last", "i1"),
        ("currency", "S3"),
    ]
)
#: A user before their first event.
FRESH_USER: Final = np.zeros(1, USER)
FRESH_USER[["applied_offset", "scored_offset", "sentiment_offset", "scored_sentiment"]] = -1
FRESH_USER.flags.writeable = False
#: State version → how many bytes of ``USER`` a value of that version holds. The other columns are read as in
#: ``FRESH_USER``.
USER_BYTES: Final = {1: 66, 2: 95, STATE_VERSION: USER.itemsize}

#: One of a user's last orders. Money is in hundredths.
#:
#: - ``order``: 64-bit hash of the order id (0: an empty place)
#: - ``paid``: what was paid for it, as far as events said (0 if none did)
#: - ``refunded``: what was given back, at most what was paid if that is known
#: - ``known``: whether an event said what was paid: 0 none did, 1 lines did, 2 one did for all of the order
#: - ``cancelled``: whether all of it is given back
ORDER: Final = np.dtype([("order", "<u8"), ("paid", "<i8"), ("refunded", "<i8"), ("known", "u1"), ("cancelled", "u1")])

#: Levels of buckets: (width in seconds, number of buckets). 12 × 5 min, 24 × 1 h, 30 × 1 d.
BUCKET_LEVELS: Final = ((300, 12), (3_600, 24), (DAY_S, 30))
#: Buckets of one user over all levels.
BUCKET_SLOTS: Final = sum(n for _, n in BUCKET_LEVELS)
#: Counts of events that have left the history. ``number`` is ``time // width``, the same for all events of a bucket.
BUCKET: Final = np.dtype([("number", "<u4"), ("count", "<u4", (N_TYPES,)), ("value", "<i8")])

#: Window → (level, number of buckets of that level). A window ends with the bucket that holds the scoring instant, so
#: ``7d`` is this UTC day and the six days before it.
WINDOWS: Final = {"1h": (0, 12), "24h": (1, 24), "7d": (2, 7), "30d": (2, 30)}
