"""Decide: raw outputs and state → calibrated scores, bands and alerts.

A score is a pure function of the user's state, the scoring instant and the model, so a score made again after a
crash is the same to the byte. When it was made is the Kafka timestamp of its record, not part of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum
from itertools import repeat
from typing import Any, Final, Literal

import msgspec
import numpy as np
import numpy.typing as npt
import xxhash

from stream.contract.manifest import Manifest
from stream.contract.score import Alert, Churn, LifetimeValue, ModelRef, Purchase, Score
from stream.iso_time import iso_seconds
from stream.score.predictions import PredictionMaker, Predictions
from stream.score.scorer import RawScores
from stream.state.partition_state import Snapshot

__all__ = ["AlertRule", "Band", "Decided", "Decider", "encode_json", "score_id"]

Array = npt.NDArray[Any]
_ENCODER: Final = msgspec.json.Encoder()


class Band(IntEnum):
    """Churn bands; 0 is free for "never scored" in state."""

    LOW = 1
    MEDIUM = 2
    HIGH = 3


_LOW, _HIGH = np.uint8(Band.LOW), np.uint8(Band.HIGH)


@dataclass(frozen=True, slots=True)
class AlertRule:
    """Churn rule: fires at ``high``, re-arms below ``clear``, at most once per user in ``cooldown_s`` of event time."""

    high: float
    clear: float
    cooldown_s: float


@dataclass(frozen=True, slots=True)
class Decided:
    """Scores of ``n`` users, the alerts among them, and the numbers that go back into state, each ``(n,)``.

    ``alerted`` are the indices of the users whom the alerts are about.
    """

    scores: list[Score]
    alerts: list[Alert]
    alerted: Array
    churn: Array
    purchase: Array
    ltv: Array
    alert_band: Array
    alert_time: Array

    def split(self, sizes: Sequence[int]) -> list[Decided]:
        """What was decided of each of several groups of users that were decided on together."""
        ends = np.cumsum(sizes)
        cuts = zip((ends - sizes).tolist(), ends.tolist(), strict=True)
        return [self._part(slice(begin, end), self.alerted.searchsorted((begin, end)).tolist()) for begin, end in cuts]

    def _part(self, users: slice, alerts: list[int]) -> Decided:
        return Decided(
            self.scores[users],
            self.alerts[slice(*alerts)],
            self.alerted[slice(*alerts)] - users.start,
            self.churn[users],
            self.purchase[users],
            self.ltv[users],
            self.alert_band[users],
            self.alert_time[users],
        )


class Decider:
    """Turns the outputs of one model into scores and alerts."""

    def __init__(self, manifest: Manifest, model_sha256: str, rule: AlertRule) -> None:
        self._manifest = manifest
        self._model = ModelRef(manifest.name, manifest.version, model_sha256)
        self._rule = rule
        self._value_head = manifest.labels.value_head
        self._figures = PredictionMaker(manifest)

    def decide(self, snapshot: Snapshot, as_of: Array, raw: RawScores) -> Decided:
        """Scores and alerts of the users of ``snapshot`` at ``as_of`` (seconds)."""
        enough = snapshot.users["n_events"] >= self._manifest.sufficient_events
        figures = self._figures.predictions_of(as_of, raw, enough)
        scores = self._scores(snapshot, as_of, enough, figures)
        churn = figures.probability[0]
        alert_band, alert_time, fired = self._rule_state(snapshot.users, as_of, churn)
        before = snapshot.users["alert_band"]
        (alerted,) = fired.nonzero()
        alerts = [self._alert(scores[i], int(before[i])) for i in alerted.tolist()]
        buys = figures.probability[self._value_head]
        return Decided(scores, alerts, alerted, churn, buys, figures.value, alert_band, alert_time)

    def _scores(self, snapshot: Snapshot, as_of: Array, enough: Array, figures: Predictions) -> list[Score]:
        rows = zip(
            snapshot.ids,
            as_of.tolist(),
            snapshot.users["applied_offset"].tolist(),
            snapshot.users["sentiment_offset"].tolist(),
            snapshot.users["n_events"].tolist(),
            enough.tolist(),
            self._churn(figures),
            self._purchase(figures),
            self._value(figures),
            figures.next_purchase,
            figures.next_category,
            strict=True,
        )
        return [
            Score(
                score_id=score_id(user, offset, at, self._model.sha256, noted),
                user_id=user,
                as_of=iso_seconds(at),
                model=self._model,
                n_events=n,
                data_sufficiency="ok" if sufficient else "low",
                churn=churn,
                purchase=list(purchase),
                ltv=ltv,
                applied_offset=offset,
                expected_next_purchase=next_purchase,
                next_category=next_category,
            )
            for user, at, offset, noted, n, sufficient, churn, purchase, ltv, next_purchase, next_category in rows
        ]

    def _churn(self, figures: Predictions) -> list[Churn]:
        (medium, high), days = self._manifest.bands, self._manifest.labels.churn_days
        p = figures.probability[0].tolist()
        bands: list[Literal["low", "medium", "high"]] = [
            "high" if x >= high else "medium" if x >= medium else "low" for x in p
        ]
        return list(map(Churn, p, bands, repeat(days), figures.rank[0], _pairs(figures.low[0], figures.high[0])))

    def _purchase(self, figures: Predictions) -> Iterator[tuple[Purchase, ...]]:
        heads = []
        for h, days in enumerate(self._manifest.labels.purchase_days, start=1):
            intervals = _pairs(figures.low[h], figures.high[h])
            heads.append(map(Purchase, figures.probability[h].tolist(), repeat(days), figures.rank[h], intervals))
        return zip(*heads, strict=True)

    def _value(self, figures: Predictions) -> Iterator[LifetimeValue]:
        currency, days = repeat(self._manifest.currency), repeat(self._manifest.labels.value_days)
        p_zero = (1 - figures.probability[self._value_head]).round(6).tolist()
        intervals = _pairs(figures.value_low, figures.value_high)
        return map(LifetimeValue, figures.value.tolist(), p_zero, currency, days, figures.value_rank, intervals)

    def _rule_state(self, users: Array, as_of: Array, churn: Array) -> tuple[Array, Array, Array]:
        """The alert band each user is in now, the time of their last alert, and whether one fires."""
        before, last = users["alert_band"], users["alert_time"].astype(np.int64)
        entered, was_high = churn >= self._rule.high, before == _HIGH
        band = np.where(entered | (was_high & (churn >= self._rule.clear)), _HIGH, _LOW)
        crossing = entered & ~was_high
        rested = (last == 0) | (as_of - last >= self._rule.cooldown_s)
        fired = crossing & rested
        # A crossing inside the cool-down stays armed: it fires when the cool-down is over, if still high.
        return np.where(crossing & ~rested, before, band), np.where(fired, as_of, last), fired

    def _alert(self, score: Score, before: int) -> Alert:
        return Alert(
            alert_id=score.score_id,
            rule="churn_high",
            previous_band=Band(before).name.lower() if before else None,
            score=score,
            reasons=[],
        )


def score_id(user: str, applied_offset: int, as_of: int, model_sha256: str, sentiment_offset: int = -1) -> str:
    """128-bit name of a score: the same state, instant and model give the same name.

    The sentiment of a review comes after the review, so it changes the state at the same applied offset.
    """
    seen = f"{applied_offset}" if sentiment_offset < 0 else f"{applied_offset}+{sentiment_offset}"
    return xxhash.xxh3_128_hexdigest(f"{user}\0{seen}\0{as_of}\0{model_sha256}".encode())


def encode_json(value: Score | Alert) -> bytes:
    """The bytes that go to Kafka."""
    return _ENCODER.encode(value)


def _pairs(low: Array, high: Array) -> Iterator[tuple[float, float]]:
    return zip(low.tolist(), high.tolist(), strict=True)
