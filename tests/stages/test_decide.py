"""Decide: a score is a pure function that fits its schema, and an alert does not flap."""

from __future__ import annotations

import json
import warnings
from dataclasses import replace
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import jsonschema
import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import stream.contract.score
from stream.contract.columns import USER
from stream.contract.manifest import Manifest, Platt, read_manifest
from stream.contract.score import Alert, Score, json_schema
from stream.decide import AlertRule, Band, Decided, Decider, encode_json, expected_value, score_id
from stream.score import DEMO_MODEL, RawScores
from stream.state import Snapshot
from tests.stages.test_encode import event, fold_users
from tests.stages.test_state import DAY, START

MANIFEST, SHA256 = read_manifest(DEMO_MODEL)
#: Logits are then log-odds, so that a test can say which probability it means.
PLAIN = msgspec.structs.replace(
    MANIFEST,
    calibration=msgspec.structs.replace(
        MANIFEST.calibration, churn=Platt(), purchase=tuple(Platt() for _ in MANIFEST.labels.purchase_days)
    ),
)
RULE = AlertRule(high=0.7, clear=0.6, cooldown_s=DAY)


def logit(p: Any) -> np.ndarray:
    p = np.asarray(p, np.float64)
    return (np.log(p) - np.log1p(-p)).astype(np.float32)


def raw(churn: Any, purchase: Any = (0.2, 0.4), mu: float = 3.0, log_sigma: float = 0.0) -> RawScores:
    """Raw scores of one user for each churn probability."""
    logits = logit(np.atleast_1d(churn))
    n = len(logits)
    return RawScores(logits, np.tile(logit(purchase), (n, 1)), np.tile(np.float32([mu, log_sigma]), (n, 1)))


def snapshot(n: int = 1, **columns: Any) -> Snapshot:
    """Snapshot of ``n`` users with six events each."""
    state = fold_users(*[[event(START + i) for i in range(6)] for _ in range(n)])
    for name, values in columns.items():
        state.users[name][:n] = values
    return state.snapshot(np.arange(n))


def decide(
    snap: Snapshot, scores: RawScores, age_s: int = 0, rule: AlertRule = RULE, manifest: Manifest = PLAIN
) -> Decided:
    as_of = snap.users["last_time"].astype(np.int64) + age_s
    return Decider(manifest, SHA256, rule).decide(snap, as_of, scores)


# The records ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "record"), [("score", Score), ("alert", Alert)])
def test_shipped_schema_is_the_one_its_struct_makes(name: str, record: type[Score] | type[Alert]) -> None:
    path = Path(stream.contract.score.__file__).parent / f"{name}.v1.schema.json"
    assert json.loads(path.read_bytes()) == json_schema(record), "run python -m stream.contract.score"


@cache
def validator(name: str) -> Any:
    path = Path(stream.contract.score.__file__).parent / f"{name}.v1.schema.json"
    schema = json.loads(path.read_bytes())
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


LOGITS = st.floats(-1e4, 1e4, width=32)
RAW = st.tuples(
    LOGITS, LOGITS, LOGITS, st.floats(-(2.0**100), 2.0**100, width=32), st.floats(-(2.0**100), 2.0**100, width=32)
)


@settings(max_examples=100, deadline=None)
@given(st.lists(RAW, min_size=1, max_size=4), st.sampled_from([0, DAY, 30 * DAY]))
def test_every_score_and_alert_fits_its_schema_and_makes_sense(rows: list[tuple[float, ...]], age_s: int) -> None:
    outputs = np.array(rows, np.float32)
    snap = snapshot(len(rows))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        decided = decide(snap, RawScores(outputs[:, 0], outputs[:, 1:3], outputs[:, 3:5]), age_s, manifest=MANIFEST)
    for record in (*decided.scores, *decided.alerts):
        validator("score" if isinstance(record, Score) else "alert").validate(json.loads(encode_json(record)))
    for score in decided.scores:
        assert 0 <= score.churn.probability <= 1
        assert all(0 <= p.probability <= 1 for p in score.purchase)
        assert 0 <= score.ltv.expected <= 1e7 * MANIFEST.calibration.value_factor
        (buys,) = [p.probability for p in score.purchase if p.horizon_days == score.ltv.horizon_days]
        assert score.ltv.p_zero == pytest.approx(1 - buys, abs=1e-9)


@pytest.mark.parametrize("column", ["churn", "purchase", "ltv"])
def test_schema_refuses_a_record_that_lacks_a_part_or_has_a_null_in_it(column: str) -> None:
    found = json.loads(encode_json(decide(snapshot(), raw(0.9)).scores[0]))
    validator("score").validate(found)
    for spoiled in ({k: v for k, v in found.items() if k != column}, {**found, column: None}):
        with pytest.raises(jsonschema.ValidationError):
            validator("score").validate(spoiled)
    validator("score").validate({**found, "a field of a later version": 1})


def test_score_says_what_it_was_made_of() -> None:
    snap = snapshot(applied_offset=77)
    (score,) = decide(snap, raw(0.5), age_s=DAY).scores
    found = json.loads(encode_json(score))
    assert found["schema"] == "valuestream.score.v1"
    assert (found["user_id"], found["as_of"], found["applied_offset"]) == ("u0", "2023-11-15T22:13:25Z", 77)
    assert found["model"] == {"name": MANIFEST.name, "version": MANIFEST.version, "sha256": SHA256}
    assert [p["horizon_days"] for p in found["purchase"]] == list(MANIFEST.labels.purchase_days)
    assert [p["probability"] for p in found["purchase"]] == [0.2, 0.4]
    assert found["ltv"]["currency"] == MANIFEST.currency
    assert found["churn"]["horizon_days"] == MANIFEST.labels.churn_days


def test_score_made_again_is_the_same_to_the_byte() -> None:
    snap, outputs = snapshot(3), raw([0.2, 0.71, 0.99])
    first, second = (decide(snap, outputs, DAY) for _ in range(2))
    assert [*map(encode_json, first.scores)] == [*map(encode_json, second.scores)]
    assert [*map(encode_json, first.alerts)] == [*map(encode_json, second.alerts)]
    for i in range(3):
        alone = decide(one_of(snap, i), RawScores(outputs.churn[[i]], outputs.purchase[[i]], outputs.value[[i]]), DAY)
        assert encode_json(alone.scores[0]) == encode_json(first.scores[i])


def one_of(snap: Snapshot, i: int) -> Snapshot:
    return replace(snap, ids=[snap.ids[i]], users=snap.users[[i]], history=snap.history[[i]])


def test_score_id_differs_when_any_ingredient_does() -> None:
    same = ("ann", 7, START, "a" * 64)
    others = [("anna", *same[1:]), ("ann", 8, *same[2:]), ("ann", 7, START + 1, same[3]), (*same[:3], "b" * 64)]
    shifted = [("ann7", 7, START, same[3]), ("ann", 71, 700_000_000, same[3])]
    ids = [score_id(*ingredients) for ingredients in (same, *others, *shifted)]
    assert len(set(ids)) == len(ids)
    assert score_id(*same) == ids[0]
    assert all(len(i) == 32 for i in ids)


def test_score_id_is_the_same_in_every_release() -> None:
    assert score_id("ann", 7, 1_700_000_000, "a" * 64) == "8f4b9854b807ec32b60fe5c6f64fb880"


def test_alert_carries_its_score_and_the_band_before() -> None:
    decided = decide(snapshot(3, alert_band=[0, Band.LOW, Band.HIGH]), raw([0.9, 0.9, 0.9]))
    assert [(a.score.user_id, a.previous_band) for a in decided.alerts] == [("u0", None), ("u1", "low")]
    assert [a.score for a in decided.alerts] == decided.scores[:2]
    assert [a.alert_id for a in decided.alerts] == [a.score.score_id for a in decided.alerts]


def test_bands_begin_at_their_bounds() -> None:
    medium, high = MANIFEST.bands
    churn = [0.001, medium - 0.001, medium + 1e-5, high - 0.001, high + 1e-5, 0.999]
    assert [s.churn.band for s in decide(snapshot(6), raw(churn)).scores] == [
        *("low", "low", "medium", "medium", "high", "high")
    ]


def test_data_is_sufficient_from_the_manifests_number_of_events() -> None:
    few = MANIFEST.sufficient_events
    scores = decide(snapshot(3, n_events=[few - 1, few, few + 1]), raw([0.1] * 3)).scores
    assert [s.data_sufficiency for s in scores] == ["low", "ok", "ok"]
    assert [s.n_events for s in scores] == [few - 1, few, few + 1]


# Lifetime value ---------------------------------------------------------------------------------------


def test_expected_value_is_the_mean_of_what_buyers_and_others_spend() -> None:
    mu, sigma, buys = 3.0, 0.5, 0.25
    rng = np.random.default_rng(3)
    spent = np.exp(rng.normal(mu, sigma, 400_000)) * (rng.random(400_000) < buys)
    found = expected_value(np.array([buys]), np.float32([[mu, np.log(sigma)]]))
    assert found[0] == pytest.approx(spent.mean(), rel=0.02)


def test_expected_value_never_explodes_and_grows_with_what_it_is_made_of() -> None:
    huge = expected_value(np.array([1.0]), np.float32([[np.inf, np.inf], [3e38, 3e38], [-3e38, 3e38]]))
    assert huge.tolist() == [pytest.approx(1e7), pytest.approx(1e7), 0.0]
    by_mu = expected_value(np.ones(50), np.column_stack((np.linspace(-20, 30, 50), np.zeros(50))))
    by_sigma = expected_value(np.ones(50), np.column_stack((np.ones(50), np.linspace(-20, 20, 50))))
    for grows in (by_mu, by_sigma):
        assert (np.diff(grows) >= 0).all()
        assert np.isfinite(grows).all()


# Alerts -----------------------------------------------------------------------------------------------

#: Churn probabilities about the rule's bounds, and how much event time passes before each, in seconds.
WALKS = st.lists(
    st.tuples(
        st.one_of(st.sampled_from([0.1, 0.59, 0.61, 0.65, 0.69, 0.71, 0.75, 0.95]), st.floats(0.001, 0.999)),
        st.sampled_from([0, 60, DAY // 2, DAY - 1, DAY, 3 * DAY]),
    ),
    min_size=1,
    max_size=30,
)


def walk(steps: list[tuple[float, int]], rule: AlertRule) -> list[tuple[int, float, bool]]:
    """One user through these scores: event time, churn as published, and whether an alert went out."""
    snap, now, out = snapshot(), 0, []
    for churn, passed_s in steps:
        now += passed_s
        decided = decide(snap, raw(churn), now, rule)
        for name in ("alert_band", "alert_time", "churn"):
            snap.users[name] = getattr(decided, name)
        out.append((now, decided.scores[0].churn.probability, bool(decided.alerts)))
    return out


@settings(max_examples=150, deadline=None)
@given(WALKS, st.sampled_from([0.0, DAY]))
def test_alert_fires_on_crossing_high_and_not_again_before_clear_and_cooldown(
    steps: list[tuple[float, int]], cooldown_s: float
) -> None:
    rule = replace(RULE, cooldown_s=cooldown_s)
    last, armed = None, True
    for now, churn, alerted in walk(steps, rule):
        rested = last is None or now - last >= cooldown_s
        armed = armed or churn < rule.clear
        assert alerted == (armed and rested and churn >= rule.high)
        if alerted:
            last, armed = now, False


@settings(max_examples=50, deadline=None)
@given(WALKS)
def test_two_alerts_of_a_user_are_a_cooldown_apart(steps: list[tuple[float, int]]) -> None:
    alerts = [now for now, _, alerted in walk(steps, RULE) if alerted]
    assert all(later - earlier >= RULE.cooldown_s for earlier, later in pairwise(alerts))


def test_user_at_the_threshold_does_not_flap() -> None:
    steps = [(0.69 if i % 2 else 0.71, 7_200) for i in range(500)]
    assert sum(alerted for _, _, alerted in walk(steps, RULE)) == 1


def test_crossing_inside_the_cooldown_alerts_once_it_is_over_if_still_high() -> None:
    steps = [(0.8, 0), (0.1, 60), (0.8, 60), (0.8, 60), (0.8, DAY)]
    assert [alerted for _, _, alerted in walk(steps, RULE)] == [True, False, False, False, True]


def test_every_user_has_a_rule_state_of_their_own() -> None:
    snap = snapshot(4, alert_band=[0, Band.HIGH, Band.HIGH, Band.LOW], alert_time=[0, START, START, START])
    decided = decide(snap, raw([0.9, 0.65, 0.5, 0.9]), age_s=60)
    assert decided.alert_band.tolist() == [Band.HIGH, Band.HIGH, Band.LOW, Band.LOW]
    at = int(snap.users["last_time"][0]) + 60
    assert decided.alert_time.tolist() == [at, START, START, START]
    assert [a.score.user_id for a in decided.alerts] == ["u0"]


def test_what_goes_back_into_state_is_what_was_published() -> None:
    decided = decide(snapshot(3), raw([0.1234567, 0.5, 0.9]))
    assert decided.churn.tolist() == [s.churn.probability for s in decided.scores]
    assert decided.purchase.tolist() == [s.purchase[1].probability for s in decided.scores]
    assert decided.ltv.tolist() == [s.ltv.expected for s in decided.scores]
    assert {"churn", "purchase", "ltv", "alert_band", "alert_time"} <= set(USER.names or ())
