"""Oracle: what a schedule must come to, from an undisturbed replay of the source through the same pure state."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from stream.checkpoint import changelog
from stream.contract.columns import IDLE_AGES_S
from stream.decode.decoder import Decoder, Money
from stream.score.decide import encode_json
from stream.score.scorer import RawScores
from stream.state.partition_state import PartitionState
from tests.contract.packed_users import without_scores
from tests.simulation.broker import Stored
from tests.simulation.model import HashedDecider, HashedSentiment

__all__ = ["Expected", "decoder", "expected"]

_NO_OUTPUT = RawScores(*(np.zeros(0, np.float32) for _ in range(3)))


@dataclass
class Expected:
    """The expected result of one partition: packed states and last scores by user, and offsets by their outcome."""

    states: dict[str, bytes]
    scores: dict[str, bytes]
    accepted: list[tuple[int, str]]
    dead: set[int]
    #: Offsets and users of accepted reviews. A review is done when its sentiment is in the state.
    reviews: list[tuple[int, str]] = field(default_factory=list)


def decoder() -> Decoder:
    """The decoder of all workers and of the oracle."""
    return Decoder("flat", Money("USD"), bytes_max=10_000, future_skew_s=86_400.0)


def expected(records: list[Stored], lateness_s: float, now: float) -> Expected:
    """Replay all records of a partition at once."""
    state, decoded = PartitionState(lateness_s, "USD"), decoder().decode(records, now)
    if not records:
        return Expected({}, {}, [], set())
    applied = state.apply(decoded.batch)
    offsets = decoded.batch.rows["offset"].tolist()
    rows = dict(zip(applied.accepted.tolist(), applied.users.tolist(), strict=True))
    reviews = [(i, text) for i, text in decoded.reviews if i in rows]
    review_rows = np.array([rows[i] for i, _ in reviews], np.int64)
    review_offsets = np.array([offsets[i] for i, _ in reviews], np.int64)
    state.note_sentiments(review_rows, review_offsets, HashedSentiment().run([text for _, text in reviews]))
    everyone = np.arange(len(state))
    snapshot = state.snapshot(everyone)
    as_of = snapshot.users["last_time"].astype(np.int64) + IDLE_AGES_S[state.idle_stages(state.watermark)]
    scores = HashedDecider().decide(snapshot, as_of, _NO_OUTPUT).scores
    values = changelog.pack(state, everyone)
    return Expected(
        {user: without_scores(value) for user, value in zip(state.ids, values, strict=True)},
        {s.user_id: encode_json(s) for s in scores},
        [(offsets[i], decoded.batch.users[i]) for i in sorted(rows)],
        {d.record.offset for d in decoded.dead} | {decoded.records[i].offset for i in applied.late.tolist()},
        [(offsets[i], decoded.batch.users[i]) for i, _ in reviews],
    )
