"""Decide: raw scores and user state → calibrated scores, bands and alerts.

A score is a pure function of the user's state, the scoring instant and the model. So a score that is made again after
a crash is the same to the byte. The time at which it was made is therefore not part of it: that is the Kafka timestamp
of its record.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum
from itertools import repeat
from typing import Final, Literal

import msgspec
import numpy as np
import xxhash

from stream.arrays import Codes, Floats, Mask, Probabilities, Seconds, Slots, UserRows
from stream.contract.manifest import Manifest
from stream.contract.score import Alert, Churn, LifetimeValue, ModelRef, Purchase, Score
from stream.iso_time import iso_seconds
from stream.score.predictions import Predictions, Predictor
from stream.score.scorer import RawScores
from stream.state.partition_state import Snapshot

__all__ = ["AlertRule", "Band", "Decided", "Decider", "encode_json", "score_id"]

_ENCODER: Final = msgspec.json.Encoder()


class Band(IntEnum):
    """Churn bands as the state keeps them. In the state, 0 means that the user was never scored."""

    LOW = 1
    MEDIUM = 2
    HIGH = 3


_LOW, _HIGH = np.uint8(Band.LOW), np.uint8(Band.HIGH)


@dataclass(frozen=True, slots=True, kw_only=True)
class AlertRule:
    """The churn rule. It fires when churn reaches ``high``, and can fire again after churn fell below ``clear``.

    Two alerts of a user are at least ``cooldown_s`` of event time apart.
    """

    high: float
    clear: float
    cooldown_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Decided:
    """Scores and alerts of ``n`` users, and the numbers that go back into their state, each ``(n,)``.

    ``alerted`` are the indices of the users that the alerts are about, in the order of the alerts.
    """

    scores: list[Score]
    alerts: list[Alert]
    alerted: Slots
    churn: Probabilities
    purchase: Probabilities
    ltv: Floats
    alert_band: Codes
    alert_time: Seconds

    def split(self, sizes: Sequence[int]) -> list[Decided]:
        """Split what was decided for groups of users together; ``sizes`` are the groups' numbers of users."""
        ends = np.cumsum(sizes)
        bounds = zip((ends - sizes).tolist(), ends.tolist(), strict=True)
        return [self._part(slice(*users), slice(*self.alerted.searchsorted(users).tolist())) for users in bounds]

    def _part(self, users: slice, alerts: slice) -> Decided:
        return Decided(
            scores=self.scores[users],
            alerts=self.alerts[alerts],
            alerted=self.alerted[alerts] - users.start,
            churn=self.churn[users],
            purchase=self.purchase[users],
            ltv=self.ltv[users],
            alert_band=self.alert_band[users],
            alert_time=self.alert_time[users],
        )


class Decider:
    """Turns the raw scores of one model into scores and alerts."""

    def __init__(self, manifest: Manifest, model_sha256: str, rule: AlertRule) -> None:
        self._manifest = manifest
        self._model = ModelRef(manifest.name, manifest.version, model_sha256)
        self._rule = rule
        self._value_head = manifest.labels.value_head
        self._predictor = Predictor(manifest)

    def decide(self, snapshot: Snapshot, as_of: Seconds, raw: RawScores) -> Decided:
        """Scores and alerts of the ``n`` users of ``snapshot`` at ``as_of`` (n,)."""
        enough = snapshot.users["n_events"] >= self._manifest.sufficient_events
        predictions = self._predictor.predict(raw, as_of, enough)
        scores = self._scores(snapshot, as_of, enough, predictions)
        churn = predictions.probability[0]
        alert_band, alert_time, fires = self._apply_rule(snapshot.users, as_of, churn)
        bands_before = snapshot.users["alert_band"]
        (alerted,) = fires.nonzero()
        return Decided(
            scores=scores,
            alerts=[_alert(scores[i], int(bands_before[i])) for i in alerted.tolist()],
            alerted=alerted,
            churn=churn,
            purchase=predictions.probability[self._value_head],
            ltv=predictions.value,
            alert_band=alert_band,
            alert_time=alert_time,
        )

    def _scores(self, snapshot: Snapshot, as_of: Seconds, enough: Mask, predictions: Predictions) -> list[Score]:
        rows = zip(
            snapshot.ids,
            as_of.tolist(),
            snapshot.users["applied_offset"].tolist(),
            snapshot.users["sentiment_offset"].tolist(),
            snapshot.users["n_events"].tolist(),
            enough.tolist(),
            self._churn(predictions),
            self._purchase(predictions),
            self._value(predictions),
            predictions.next_purchase,
            predictions.next_category,
            strict=True,
        )
        sha256 = self._model.sha256
        return [
            Score(
                score_id=score_id(user, offset, at, sha256, sentiment_offset=sentiment),
                user_id=user,
                as_of=iso_seconds(at),
                model=self._model,
                n_events=n_events,
                data_sufficiency="ok" if ok else "low",
                churn=churn,
                purchase=list(purchase),
                ltv=ltv,
                applied_offset=offset,
                expected_next_purchase=next_purchase,
                next_category=categories,
            )
            for user, at, offset, sentiment, n_events, ok, churn, purchase, ltv, next_purchase, categories in rows
        ]

    def _churn(self, predictions: Predictions) -> list[Churn]:
        (medium, high), days = self._manifest.bands, self._manifest.labels.churn_days
        p = predictions.probability[0].tolist()
        bands: list[Literal["low", "medium", "high"]] = [
            "high" if x >= high else "medium" if x >= medium else "low" for x in p
        ]
        intervals = _pairs(predictions.low[0], predictions.high[0])
        return list(map(Churn, p, bands, repeat(days), predictions.rank[0], intervals))

    def _purchase(self, predictions: Predictions) -> Iterator[tuple[Purchase, ...]]:
        heads = []
        for head, days in enumerate(self._manifest.labels.purchase_days, start=1):
            p, rank = predictions.probability[head].tolist(), predictions.rank[head]
            heads.append(map(Purchase, p, repeat(days), rank, _pairs(predictions.low[head], predictions.high[head])))
        return zip(*heads, strict=True)

    def _value(self, predictions: Predictions) -> Iterator[LifetimeValue]:
        currency, days = repeat(self._manifest.currency), repeat(self._manifest.labels.value_days)
        p_zero = (1 - predictions.probability[self._value_head]).round(6).tolist()
        intervals = _pairs(predictions.value_low, predictions.value_high)
        return map(LifetimeValue, predictions.value.tolist(), p_zero, currency, days, predictions.value_rank, intervals)

    def _apply_rule(self, users: UserRows, as_of: Seconds, churn: Probabilities) -> tuple[Codes, Seconds, Mask]:
        """The alert band of each user from now on, the time of their last alert, and whether one fires now."""
        band_before, last_alert = users["alert_band"], users["alert_time"].astype(np.int64)
        reaches_high, was_high = churn >= self._rule.high, band_before == _HIGH
        band = np.where(reaches_high | (was_high & (churn >= self._rule.clear)), _HIGH, _LOW)
        crosses = reaches_high & ~was_high
        cooled_down = (last_alert == 0) | (as_of - last_alert >= self._rule.cooldown_s)
        fires = crosses & cooled_down
        # A user who crosses during the cool-down keeps the band from before. So the alert fires after the cool-down,
        # if churn is still high then.
        return np.where(crosses & ~cooled_down, band_before, band), np.where(fires, as_of, last_alert), fires


def _alert(score: Score, band_before: int) -> Alert:
    return Alert(
        alert_id=score.score_id,
        rule="churn_high",
        previous_band=Band(band_before).name.lower() if band_before else None,
        score=score,
        reasons=[],
    )


def score_id(user: str, applied_offset: int, as_of: int, model_sha256: str, *, sentiment_offset: int = -1) -> str:
    """128-bit name of a score: the same state, instant and model give the same name.

    The sentiment of a review is known some time after the review, and then changes the state at the same applied
    offset. So its offset is part of the name; -1 if the state holds no sentiment.
    """
    seen = f"{applied_offset}" if sentiment_offset < 0 else f"{applied_offset}+{sentiment_offset}"
    return xxhash.xxh3_128_hexdigest(f"{user}\0{seen}\0{as_of}\0{model_sha256}".encode())


def encode_json(record: Score | Alert) -> bytes:
    """The bytes of a score or an alert that go to Kafka."""
    return _ENCODER.encode(record)


def _pairs(low: Floats, high: Floats) -> Iterator[tuple[float, float]]:
    return zip(low.tolist(), high.tolist(), strict=True)
