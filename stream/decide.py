"""Decide: raw outputs and state → calibrated scores, bands and alerts.

A score is a pure function of the user's state, the scoring instant and the model, so a score made again after a
crash is the same to the byte. When it was made is the Kafka timestamp of its record, not part of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from enum import IntEnum
from typing import Any, Final

import msgspec
import numpy as np
import numpy.typing as npt
import xxhash

from stream.contract.manifest import Manifest, Platt
from stream.contract.score import Alert, Churn, LifetimeValue, ModelRef, Purchase, Score
from stream.score import RawScores
from stream.state import Snapshot

__all__ = ["AlertRule", "Band", "Decided", "Decider", "encode_json", "expected_value", "score_id"]

Array = npt.NDArray[Any]
_DAY_S: Final = 86_400
#: Log-sigma of the value of a buyer is kept below ln 2: exp(mu + sigma²/2) explodes for wide tails.
_LOG_SIGMA_MAX: Final = float(np.log(2.0))
#: No user is worth more than this in one horizon; beyond it the log-normal is extrapolating.
_VALUE_MAX: Final = 1e7


class Band(IntEnum):
    """Churn bands; 0 is free for "never scored" in state."""

    LOW = 1
    MEDIUM = 2
    HIGH = 3


@dataclass(frozen=True, slots=True)
class AlertRule:
    """Churn rule: fires at ``high``, re-arms below ``clear``, at most once per user in ``cooldown_s`` of event time."""

    high: float
    clear: float
    cooldown_s: float


@dataclass(frozen=True, slots=True)
class Decided:
    """Scores of ``n`` users, the alerts among them, and the numbers that go back into state, each ``(n,)``."""

    scores: list[Score]
    alerts: list[Alert]
    churn: Array
    purchase: Array
    ltv: Array
    alert_band: Array
    alert_time: Array


class Decider:
    """Turns the outputs of one model into scores and alerts."""

    def __init__(self, manifest: Manifest, model_sha256: str, rule: AlertRule) -> None:
        self._manifest = manifest
        self._model = ModelRef(manifest.name, manifest.version, model_sha256)
        self._rule = rule
        labels = manifest.labels
        self._value_head = labels.purchase_days.index(labels.value_days)

    def decide(self, snapshot: Snapshot, as_of: Array, raw: RawScores) -> Decided:
        """Scores and alerts of the users of ``snapshot`` at ``as_of`` (seconds)."""
        calibration = self._manifest.calibration
        churn = _calibrated(raw.churn, calibration.churn)
        purchase = np.column_stack([_calibrated(raw.purchase[:, h], p) for h, p in enumerate(calibration.purchase)])
        buys = purchase[:, self._value_head]
        ltv = expected_value(buys, raw.value) * calibration.value_factor
        churn, purchase, ltv = np.round(churn, 6), np.round(purchase, 6), np.round(ltv, 4)
        scores = self._scores(snapshot, as_of, churn, purchase, ltv)
        alert_band, alert_time, fired = self._rule_state(snapshot.users, as_of, churn)
        before = snapshot.users["alert_band"]
        alerts = [self._alert(scores[i], int(before[i])) for i in np.flatnonzero(fired).tolist()]
        return Decided(scores, alerts, churn, np.round(buys, 6), ltv, alert_band, alert_time)

    def _scores(self, snapshot: Snapshot, as_of: Array, churn: Array, purchase: Array, ltv: Array) -> list[Score]:
        m = self._manifest
        medium, high = m.bands
        bands = np.where(churn >= high, "high", np.where(churn >= medium, "medium", "low")).tolist()
        sufficient = (snapshot.users["n_events"] >= m.sufficient_events).tolist()
        rows = zip(
            snapshot.ids,
            as_of.tolist(),
            snapshot.users["applied_offset"].tolist(),
            snapshot.users["n_events"].tolist(),
            sufficient,
            churn.tolist(),
            bands,
            purchase.tolist(),
            ltv.tolist(),
            strict=True,
        )
        return [
            Score(
                score_id=score_id(user, offset, at, self._model.sha256),
                user_id=user,
                as_of=_iso(at),
                model=self._model,
                n_events=n,
                data_sufficiency="ok" if enough else "low",
                churn=Churn(p_churn, band, m.labels.churn_days),
                purchase=[Purchase(p, d) for p, d in zip(p_buys, m.labels.purchase_days, strict=True)],
                ltv=LifetimeValue(value, round(1 - p_buys[self._value_head], 6), m.currency, m.labels.value_days),
                applied_offset=offset,
            )
            for user, at, offset, n, enough, p_churn, band, p_buys, value in rows
        ]

    def _rule_state(self, users: Array, as_of: Array, churn: Array) -> tuple[Array, Array, Array]:
        """The alert band each user is in now, the time of their last alert, and whether one fires."""
        before = users["alert_band"]
        entered = churn >= self._rule.high
        stays = (before == Band.HIGH) & (churn >= self._rule.clear)
        band = np.where(entered | stays, Band.HIGH, Band.LOW).astype(np.uint8)
        last = users["alert_time"].astype(np.int64)
        rested = (last == 0) | (as_of - last >= self._rule.cooldown_s)
        fired = entered & (before != Band.HIGH) & rested
        # A crossing inside the cool-down stays armed: it fires when the cool-down is over, if still high.
        band = np.where(entered & (before != Band.HIGH) & ~rested, before, band).astype(np.uint8)
        return band, np.where(fired, as_of, last), fired

    def _alert(self, score: Score, before: int) -> Alert:
        return Alert(
            alert_id=score.score_id,
            rule="churn_high",
            previous_band=Band(before).name.lower() if before else None,
            score=score,
            reasons=[],
        )


def expected_value(buys: Array, value: Array) -> Array:
    """Mean of the zero-inflated log-normal, ``p · exp(mu + sigma²/2)`` (Wang, Liu & Miao 2019), sigma clamped."""
    sigma = np.exp(np.minimum(value[:, 1].astype(np.float64), _LOG_SIGMA_MAX))
    mean = np.exp(np.minimum(value[:, 0].astype(np.float64) + sigma**2 / 2, np.log(_VALUE_MAX)))
    out: Array = buys * mean
    return out


def score_id(user: str, applied_offset: int, as_of: int, model_sha256: str) -> str:
    """128-bit name of a score: the same state, instant and model give the same name."""
    return xxhash.xxh3_128_hexdigest(f"{user}\0{applied_offset}\0{as_of}\0{model_sha256}".encode())


def encode_json(value: Score | Alert) -> bytes:
    """The bytes that go to Kafka."""
    return msgspec.json.encode(value)


def _calibrated(logits: Array, platt: Platt) -> Array:
    z = platt.slope * logits.astype(np.float64) + platt.intercept
    # The logistic function as tanh, which does not overflow.
    out: Array = 0.5 * (1.0 + np.tanh(0.5 * z))
    return out


def _iso(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
