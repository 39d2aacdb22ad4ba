"""Decide: a score depends on state, instant and model alone and fits its schema, and alerts do not flap."""

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
from stream.contract.manifest import Calibration, Calibrator, HeadCalibration, Labels, Manifest
from stream.contract.score import Alert, Churn, Purchase, Score, json_schema
from stream.score.decide import AlertRule, Band, Decided, Decider, encode_json, score_id
from stream.score.scorer import RawScores
from stream.state.partition_state import Snapshot
from tests.score.test_encode import event, fold_users
from tests.state.test_partition_state import DAY, START

SHA256 = "a" * 64
HUNDREDTHS = tuple(i / 100 for i in range(101))
#: Calibrators that change nothing. Logits are then log-odds, so a test can say which probability it means.
SAME = HeadCalibration(Calibrator(n=100), Calibrator(n=0), HUNDREDTHS)
PLAIN = Manifest(
    name="m",
    version="1",
    labels=Labels(eligible_days=45, churn_days=14, purchase_days=(7, 30), value_days=30),
    calibration=Calibration(SAME, (SAME, SAME), 1.0, tuple(10.0 * i for i in range(101))),
    currency="USD",
    bands=(0.4, 0.7),
    sufficient_events=5,
    trained_on=("2024-01-01T00:00:00Z", "2024-06-01T00:00:00Z"),
    recipe={},
    metrics={},
    files={},
    categories=("shoes", "hats", "coats", "bags"),
)
CURVED = HeadCalibration(
    Calibrator("isotonic", 0.9, 0.1, (-2.0, 0.0, 1.0), (0.05, 0.2, 0.8), 300), Calibrator(slope=0.3, n=7), HUNDREDTHS
)
MANIFEST = msgspec.structs.replace(
    PLAIN, calibration=Calibration(CURVED, (CURVED, CURVED), 1.3, (0.0, 0.0, 50.0, 1e4), 1.7, -0.3, 2.0)
)
RULE = AlertRule(high=0.7, clear=0.6, cooldown_s=DAY)


def logit(p: Any) -> np.ndarray:
    p = np.asarray(p, np.float64)
    return (np.log(p) - np.log1p(-p)).astype(np.float32)


def raw(churn: Any, purchase: Any = (0.2, 0.4), mu: float = 3.0, log_sigma: float = 0.0) -> RawScores:
    """Raw scores of one user for each churn probability."""
    logits = logit(np.atleast_1d(churn))
    n = len(logits)
    value, category = np.array([mu, log_sigma], np.float32), np.log(np.array([0.1, 0.5, 0.1, 0.3], np.float32))
    return RawScores(
        logits, np.tile(logit(purchase), (n, 1)), np.tile(value, (n, 1)), category=np.tile(category, (n, 1))
    )


def rows_of(scores: RawScores, rows: Any) -> RawScores:
    return RawScores(scores.churn[rows], scores.purchase[rows], scores.value[rows], category=scores.category[rows])


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


def heads(score: Score) -> list[Churn | Purchase]:
    return [score.churn, *score.purchase]


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
WIDE = st.floats(-(2.0**100), 2.0**100, width=32)
RAW = st.tuples(*[LOGITS] * 3, WIDE, WIDE, *[LOGITS] * 4)


@settings(max_examples=100, deadline=None)
@given(st.lists(RAW, min_size=1, max_size=4), st.sampled_from([0, DAY, 30 * DAY]), st.sampled_from([1, 6]))
def test_every_score_and_alert_fits_its_schema_and_makes_sense(
    rows: list[tuple[float, ...]], age_s: int, n_events: int
) -> None:
    outputs = np.array(rows, np.float32)
    snap = snapshot(len(rows), n_events=n_events)
    scores = RawScores(outputs[:, 0], outputs[:, 1:3], outputs[:, 3:5], category=outputs[:, 5:])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        decided = decide(snap, scores, age_s, manifest=MANIFEST)
    for record in (*decided.scores, *decided.alerts):
        encoded = encode_json(record)
        validator("score" if isinstance(record, Score) else "alert").validate(json.loads(encoded))
        assert msgspec.json.decode(encoded, type=type(record)) == record
    for score in decided.scores:
        for head in heads(score):
            assert head.interval is not None and head.percentile is not None
            assert 0 <= head.interval[0] <= head.probability <= head.interval[1] <= 1
            assert 0 <= head.percentile <= 100
        ltv = score.ltv
        assert ltv.interval is not None and ltv.percentile is not None
        assert 0 <= ltv.interval[0] <= ltv.interval[1] <= 1e7 * MANIFEST.calibration.value_factor
        assert 0 <= ltv.expected <= 1e7 * MANIFEST.calibration.value_factor
        assert 0 <= ltv.percentile <= 100
        (buys,) = [p.probability for p in score.purchase if p.horizon_days == ltv.horizon_days]
        assert ltv.p_zero == pytest.approx(1 - buys, abs=1e-9)
        assert score.expected_next_purchase is None or score.expected_next_purchase >= score.as_of[:10]
        assert len({c.category for c in score.next_category}) == 3


@pytest.mark.parametrize("column", ["churn", "purchase", "ltv"])
def test_schema_refuses_a_record_that_lacks_a_part_or_has_a_null_in_it(column: str) -> None:
    published = json.loads(encode_json(decide(snapshot(), raw(0.9)).scores[0]))
    validator("score").validate(published)
    for spoiled in ({k: v for k, v in published.items() if k != column}, {**published, column: None}):
        with pytest.raises(jsonschema.ValidationError):
            validator("score").validate(spoiled)
    validator("score").validate({**published, "a field of a later version": 1})


def test_score_names_its_user_instant_model_and_horizons() -> None:
    snap = snapshot(applied_offset=77)
    (score,) = decide(snap, raw(0.5), age_s=DAY).scores
    published = json.loads(encode_json(score))
    assert published["schema"] == "valuestream.score.v1"
    assert (published["user_id"], published["as_of"], published["applied_offset"]) == ("u0", "2023-11-15T22:13:25Z", 77)
    assert published["model"] == {"name": MANIFEST.name, "version": MANIFEST.version, "sha256": SHA256}
    assert [p["horizon_days"] for p in published["purchase"]] == list(MANIFEST.labels.purchase_days)
    assert [p["probability"] for p in published["purchase"]] == [0.2, 0.4]
    assert published["ltv"]["currency"] == MANIFEST.currency
    assert published["churn"]["horizon_days"] == MANIFEST.labels.churn_days


def test_score_made_again_is_the_same_to_the_byte() -> None:
    snap, outputs = snapshot(3), raw([0.2, 0.71, 0.99])
    first, second = (decide(snap, outputs, DAY) for _ in range(2))
    assert [*map(encode_json, first.scores)] == [*map(encode_json, second.scores)]
    assert [*map(encode_json, first.alerts)] == [*map(encode_json, second.alerts)]
    for i in range(3):
        alone = decide(one_of(snap, i), rows_of(outputs, [i]), DAY)
        assert encode_json(alone.scores[0]) == encode_json(first.scores[i])


def test_users_decided_on_together_are_decided_on_as_each_group_alone() -> None:
    snap, outputs, sizes = snapshot(6), raw([0.2, 0.9, 0.99, 0.1, 0.8, 0.3]), [1, 0, 3, 2]
    parts = decide(snap, outputs, DAY).split(sizes)
    assert [[a.score.user_id for a in part.alerts] for part in parts] == [[], [], ["u1", "u2"], ["u4"]]
    for part, end, n in zip(parts, np.cumsum(sizes).tolist(), sizes, strict=True):
        rows = np.arange(end - n, end)
        group = replace(snap, ids=[snap.ids[i] for i in rows], users=snap.users[rows], history=snap.history[rows])
        alone = decide(group, rows_of(outputs, rows), DAY)
        assert (part.scores, part.alerts) == (alone.scores, alone.alerts)
        for column in ("alerted", "churn", "purchase", "ltv", "alert_band", "alert_time"):
            assert getattr(part, column).tolist() == getattr(alone, column).tolist(), column


def one_of(snap: Snapshot, i: int) -> Snapshot:
    return replace(snap, ids=[snap.ids[i]], users=snap.users[[i]], history=snap.history[[i]])


def test_score_id_differs_if_any_of_its_parts_does() -> None:
    same = ("ann", 7, START, "a" * 64)
    others = [("anna", *same[1:]), ("ann", 8, *same[2:]), ("ann", 7, START + 1, same[3]), (*same[:3], "b" * 64)]
    shifted = [("ann7", 7, START, same[3]), ("ann", 71, 700_000_000, same[3])]
    ids = [score_id(*parts) for parts in (same, *others, *shifted)]
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
    sufficient = MANIFEST.sufficient_events
    scores = decide(snapshot(3, n_events=[sufficient - 1, sufficient, sufficient + 1]), raw([0.1] * 3)).scores
    assert [s.data_sufficiency for s in scores] == ["low", "ok", "ok"]
    assert [s.n_events for s in scores] == [sufficient - 1, sufficient, sufficient + 1]


# The numbers -----------------------------------------------------------------------------------------


def test_users_with_few_events_get_a_curve_of_their_own_and_a_wider_interval() -> None:
    known, new = decide(snapshot(2, n_events=[5, 4]), raw([0.3, 0.3]), manifest=MANIFEST).scores
    for head, head_of_new in zip(heads(known), heads(new), strict=True):
        assert head.interval is not None and head_of_new.interval is not None
        assert np.diff(head_of_new.interval) > 3 * np.diff(head.interval)
    assert new.churn.probability == pytest.approx(1 / (1 + np.exp(-0.3 * np.log(3 / 7))), abs=1e-6)
    assert known.churn.probability != new.churn.probability


def test_percentile_is_looked_up_in_the_table_of_its_head() -> None:
    (score,) = decide(snapshot(), raw(0.9, purchase=(0.2, 0.4), mu=5.0)).scores
    assert score.churn.percentile == 90
    assert [p.percentile for p in score.purchase] == [20, 40]
    assert score.ltv.percentile == pytest.approx(score.ltv.expected / 10, abs=0.1)


def test_percentile_that_was_not_measured_is_null() -> None:
    head = HeadCalibration(Calibrator(), Calibrator())
    manifest = msgspec.structs.replace(PLAIN, calibration=Calibration(head, (head, head)))
    (score,) = decide(snapshot(), raw(0.9), manifest=manifest).scores
    assert (score.churn.percentile, score.purchase[0].percentile, score.ltv.percentile) == (None, None, None)
    validator("score").validate(json.loads(encode_json(score)))


def test_value_is_scaled_with_its_interval() -> None:
    halved = msgspec.structs.replace(PLAIN, calibration=msgspec.structs.replace(PLAIN.calibration, value_factor=0.5))
    whole, half = (decide(snapshot(), raw(0.1, (0.9, 0.95)), manifest=m).scores[0].ltv for m in (PLAIN, halved))
    assert whole.interval is not None and half.interval is not None
    assert half.expected == pytest.approx(whole.expected / 2, abs=1e-3)
    assert half.interval == pytest.approx([bound / 2 for bound in whole.interval], abs=1e-3)


@pytest.mark.parametrize(
    ("purchase", "date"),
    [
        ((0.5, 0.9), "2023-11-21"),  # The probability within seven days is one half: day 7.
        ((0.2, 0.5), "2023-12-14"),  # The probability within thirty days is one half: day 30.
        ((0.99, 0.999), "2023-11-15"),  # Day 1.05.
        ((0.01, 0.02), None),  # At the hazard between day 7 and 30, the median is after more than a year.
        ((1e-30, 1e-30), None),
    ],
)
def test_next_order_is_expected_at_the_median(purchase: tuple[float, float], date: str | None) -> None:
    (score,) = decide(snapshot(), raw(0.5, purchase)).scores
    assert score.as_of[:10] == "2023-11-14"
    assert score.expected_next_purchase == date


def test_next_categories_are_named_best_first() -> None:
    (score,) = decide(snapshot(), raw(0.5)).scores
    assert [c.category for c in score.next_category] == ["hats", "bags", "shoes"]
    assert [c.probability for c in score.next_category] == pytest.approx([0.5, 0.3, 0.1], abs=1e-6)


def test_model_without_categories_names_none() -> None:
    scores = replace(raw([0.5, 0.6]), category=np.zeros((2, 0), np.float32))
    decided = decide(snapshot(2), scores, manifest=msgspec.structs.replace(PLAIN, categories=()))
    assert [s.next_category for s in decided.scores] == [[], []]


# Alerts -----------------------------------------------------------------------------------------------

#: Churn probabilities near the bounds of the rule, and how many seconds of event time pass before each.
WALKS = st.lists(
    st.tuples(
        st.one_of(st.sampled_from([0.1, 0.59, 0.61, 0.65, 0.69, 0.71, 0.75, 0.95]), st.floats(0.001, 0.999)),
        st.sampled_from([0, 60, DAY // 2, DAY - 1, DAY, 3 * DAY]),
    ),
    min_size=1,
    max_size=30,
)


def walk(steps: list[tuple[float, int]], rule: AlertRule) -> list[tuple[int, float, bool]]:
    """Score one user at these steps. Returns event time, published churn, and whether an alert went out."""
    snap, now, out = snapshot(), 0, []
    for churn, waited_s in steps:
        now += waited_s
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
    last_alert, armed = None, True
    for now, churn, alerted in walk(steps, rule):
        cooled_down = last_alert is None or now - last_alert >= cooldown_s
        armed = armed or churn < rule.clear
        assert alerted == (armed and cooled_down and churn >= rule.high)
        if alerted:
            last_alert, armed = now, False


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


def test_numbers_that_go_back_into_state_are_the_published_ones() -> None:
    decided = decide(snapshot(3), raw([0.1234567, 0.5, 0.9]))
    assert decided.churn.tolist() == [s.churn.probability for s in decided.scores]
    assert decided.purchase.tolist() == [s.purchase[1].probability for s in decided.scores]
    assert decided.ltv.tolist() == [s.ltv.expected for s in decided.scores]
    assert {"churn", "purchase", "ltv", "alert_band", "alert_time"} <= set(USER.names or ())
