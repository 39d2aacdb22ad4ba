"""Explain: a reason is what the model says of its group of evidence, and its sentence is true."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream.contract.columns import HISTORY_LEN
from stream.contract.events import N_TYPES, EventType
from stream.contract.score import Reason
from stream.contract.tokens import CHANNELS, FEATURES
from stream.errors import ContractError
from stream.score.encode import encode
from stream.score.explain.explainer import EFFECT_MIN, REASONS_MAX, Explainer
from stream.score.explain.occlusion import GROUPS, Group, occlusions
from stream.score.explain.sentences import SENTENCES
from stream.score.features import features
from stream.score.scorer import DEMO_MODEL, RawScores, Scorer
from stream.state.partition_state import PartitionState, Snapshot
from tests.score.test_encode import AGES, USERS, event, fold_users
from tests.state.reference import Plain, active_days, window
from tests.state.test_partition_state import DAY, START

CODES = tuple(group.code for group in GROUPS)
HAPPENED = tuple(group for group in GROUPS if group.types)
LACKS = tuple(group for group in GROUPS[1:] if not group.types)
TYPE = CHANNELS.index("type")


@dataclass
class Linear:
    """A model whose right answer is known: weights of features, and of each event in the history by its type."""

    of_feature: np.ndarray = field(default_factory=lambda: np.zeros(len(FEATURES)))
    of_event: np.ndarray = field(default_factory=lambda: np.zeros(N_TYPES))
    typical: np.ndarray = field(default_factory=lambda: np.zeros(len(FEATURES)))
    rows: list[int] = field(default_factory=list)

    @property
    def manifest(self) -> SimpleNamespace:
        return SimpleNamespace(typical=tuple(self.typical.tolist()), currency="EUR")

    def run(self, tokens: np.ndarray, features: np.ndarray) -> RawScores:
        self.rows.append(len(tokens))
        n_events = (tokens[:, :, TYPE, None] == np.arange(1, N_TYPES + 1)).sum(axis=1)
        churn = features @ self.of_feature + n_events @ self.of_event
        return RawScores(churn, np.zeros((len(tokens), 1)), np.zeros((len(tokens), 2)))

    def score(self, snapshot: Snapshot, as_of: np.ndarray) -> np.ndarray:
        return self.run(encode(snapshot, as_of), features(snapshot, as_of)).churn


def columns(group: Group) -> list[int]:
    return [FEATURES.index(name) for name in group.features]


def everyone(state: PartitionState, age_s: int) -> tuple[Snapshot, np.ndarray]:
    snapshot = state.snapshot(np.arange(len(state)))
    return snapshot, snapshot.users["last_time"].astype(np.int64) + age_s


def drawn(seed: int) -> Linear:
    """Any linear model, with any typical user."""
    rng = np.random.default_rng(seed)
    return Linear(
        rng.normal(size=len(FEATURES)),
        rng.normal(size=N_TYPES),
        rng.uniform(0, 4, len(FEATURES)).astype(np.float32).astype(float),
    )


@dataclass
class Blaming:
    """A model for which every user's groups have these effects (code → logits), whatever the user did."""

    effects: dict[str, float]
    typical: dict[str, float] = field(default_factory=dict)

    @property
    def manifest(self) -> SimpleNamespace:
        return SimpleNamespace(typical=tuple(self.typical.get(name, 0.0) for name in FEATURES), currency="EUR")

    def run(self, tokens: np.ndarray, features: np.ndarray) -> RawScores:
        churn = np.zeros((1 + len(GROUPS), len(tokens) // (1 + len(GROUPS))))
        for code, effect in self.effects.items():
            churn[1 + CODES.index(code)] = -effect
        return RawScores(churn.ravel(), np.zeros((len(tokens), 1)), np.zeros((len(tokens), 2)))


def said(code: str, state: PartitionState, age_s: int = 0, **typical: float) -> str | None:
    """The sentence of this code for the first user; ``typical`` features are given on their own scales."""
    (reasons,) = Explainer(Blaming({code: 1.0}, typical), users_max=1).explain(*everyone(state, age_s))
    return reasons[0].text if reasons else None


# Groups -----------------------------------------------------------------------------------------------


def test_every_feature_is_in_exactly_one_group_and_every_code_has_a_sentence() -> None:
    names = [name for group in GROUPS for name in group.features]
    assert sorted(names) == sorted(FEATURES), "groups and FEATURES disagree. This is a bug."
    types = [kind for group in GROUPS for kind in group.types]
    assert len(set(types)) == len(types), "an event type is in two groups. This is a bug."
    assert tuple(SENTENCES) == CODES, "groups and SENTENCES disagree. This is a bug."
    assert all(re.fullmatch("[a-z]+(_[a-z]+)*", code) for code in CODES)


@settings(max_examples=50, deadline=None)
@given(USERS, AGES)
def test_occluding_a_group_changes_only_what_belongs_to_it(users: list[list[Plain]], age_s: int) -> None:
    snapshot, as_of = everyone(fold_users(*users), age_s)
    typical = np.full(len(FEATURES), 9, np.float32)
    tokens, numbers = (
        a.reshape(1 + len(GROUPS), len(users), *a.shape[1:]) for a in occlusions(snapshot, as_of, typical)
    )
    assert np.array_equal(tokens[0], encode(snapshot, as_of))
    assert np.array_equal(numbers[0], features(snapshot, as_of))
    last = snapshot.users["last_time"].astype(np.int64)
    assert np.array_equal(tokens[1], encode(snapshot, last))
    assert np.array_equal(numbers[1], features(snapshot, last))
    for group, without, row in zip(GROUPS[1:], tokens[2:], numbers[2:], strict=True):
        others = np.setdiff1d(np.arange(len(FEATURES)), columns(group))
        assert np.array_equal(row[:, others], numbers[0][:, others]), group.code
        assert (row[:, columns(group)] == (0 if group.types else 9)).all(), group.code
        for before, after in zip(tokens[0], without, strict=True):
            left = before[(before[:, TYPE] > 0) & ~np.isin(before[:, TYPE], group.types)]
            assert np.array_equal(after[: len(left)], left), group.code
            assert not after[len(left) :].any(), group.code


@pytest.mark.parametrize("group", HAPPENED, ids=lambda group: group.code)
@settings(max_examples=20, deadline=None)
@given(events=USERS, age_s=AGES)
def test_occluded_events_score_as_if_they_had_never_been(group: Group, events: list[list[Plain]], age_s: int) -> None:
    # A view stands beside the last event, so that both histories end at the same instant.
    users = [[*of_user, event(max(e.time for e in of_user))] for of_user in events]
    model = Linear(of_event=np.isin(np.arange(1, N_TYPES + 1), group.types).astype(float))
    model.of_feature[columns(group)] = 1
    with_them, as_of = everyone(fold_users(*users), age_s)
    never = fold_users(*([e for e in of_user if e.type not in group.types] for of_user in users))
    expected = model.score(with_them, as_of) - model.score(*everyone(never, age_s))
    churn = model.run(*occlusions(with_them, as_of, model.typical.astype(np.float32))).churn.reshape(-1, len(users))
    assert churn[0] - churn[1 + GROUPS.index(group)] == pytest.approx(expected, abs=1e-4)


def test_events_after_an_occluded_one_are_still_seen_by_the_scorer() -> None:
    events = [event(START + i, EventType.CART) for i in range(9)] + [event(START + 9, EventType.PURCHASE)]
    model = Linear()
    tokens, _ = occlusions(*everyone(fold_users(events), 0), model.typical.astype(np.float32))
    without_carts = tokens[1 + CODES.index("carts_abandoned")]
    assert without_carts[:, TYPE].tolist() == [EventType.PURCHASE] + [0] * (HISTORY_LEN - 1)


# Effects ----------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(USERS, AGES, st.integers(0, 10_000))
def test_without_the_named_group_the_score_falls_by_the_stated_effect(
    users: list[list[Plain]], age_s: int, seed: int
) -> None:
    snapshot, as_of = everyone(fold_users(*users), age_s)
    model = drawn(seed)
    explained = Explainer(model, users_max=len(users)).explain(snapshot, as_of)
    numbers, tokens = features(snapshot, as_of).astype(float), encode(snapshot, as_of)
    silence = model.score(snapshot, as_of) - model.score(snapshot, snapshot.users["last_time"].astype(np.int64))
    for i, reasons in enumerate(explained):
        assert len(reasons) <= REASONS_MAX
        assert [r.effect for r in reasons] == sorted((r.effect for r in reasons), reverse=True)
        assert len({r.code for r in reasons}) == len(reasons)
        for reason in reasons:
            group = GROUPS[CODES.index(reason.code)]
            put = np.zeros(len(FEATURES)) if group.types else model.typical
            by_features = ((numbers[i] - put) * model.of_feature)[columns(group)].sum()
            by_events = sum(model.of_event[kind - 1] * (tokens[i, :, TYPE] == kind).sum() for kind in group.types)
            expected = silence[i] if group.code == "silence" else by_features + by_events
            assert reason.effect == pytest.approx(expected, abs=1e-3)
            assert reason.effect >= EFFECT_MIN


@settings(max_examples=60, deadline=None)
@given(USERS, AGES, st.integers(0, 10_000))
def test_reasons_are_the_strongest_groups_whose_sentences_are_true(
    users: list[list[Plain]], age_s: int, seed: int
) -> None:
    snapshot, as_of = everyone(fold_users(*users), age_s)
    model = drawn(seed)
    typical = dict(zip(FEATURES, model.typical.tolist(), strict=True))
    churn = model.run(*occlusions(snapshot, as_of, model.typical.astype(np.float32))).churn.reshape(-1, len(users))
    explained = Explainer(model, users_max=len(users)).explain(snapshot, as_of)
    for i, reasons in enumerate(explained):
        effects = dict(zip(CODES, churn[0, i] - churn[1:, i], strict=True))
        above = sorted((code for code in CODES if effects[code] > EFFECT_MIN), key=lambda code: -effects[code])
        texts = [(code, plainly(code, users[i], int(as_of[i]), typical)) for code in above]
        assert [(r.code, r.text) for r in reasons] == [(code, text) for code, text in texts if text][:REASONS_MAX]


def plainly(code: str, events: list[Plain], as_of: int, typical: dict[str, float]) -> str | None:
    """What may be said of a user whose history is complete, from the events as a person would write them down."""
    ago = [as_of // DAY - e.time // DAY for e in events]
    before = [e for e, days in zip(events, ago, strict=True) if 30 <= days < 60]
    counts, spend = window(events, "30d", as_of)
    orders = [e.time for e in events if e.type == EventType.PURCHASE]
    return {
        "silence": lambda: silence_said(events, as_of),
        "fewer_visits": lambda: visits_said(
            active_days(events, 30, as_of), len({e.time // DAY for e in before}), round(typical["active_days_30d"])
        ),
        "spend_down": lambda: spend_said(
            spend / 100, sum(e.value for e in before) / 100, np.expm1(typical["revenue_30d"]), bool(orders)
        ),
        "no_recent_order": lambda: order_said([(as_of - t) // DAY for t in orders]),
        "short_history": lambda: history_said(events, as_of, typical),
        "carts_abandoned": lambda: carts_said(
            counts[EventType.CART], counts[EventType.UNCART], any(as_of - t < 30 * DAY for t in orders)
        ),
        "refunds": lambda: refunds_said(
            counts[EventType.REFUND], [(as_of - e.time) // DAY for e in events if e.type == EventType.REFUND]
        ),
        "bad_review": lambda: None,
    }[code]()


def days(n: int) -> str:
    return {0: "no days", 1: "1 day"}.get(n, f"{n:,} days")


def silence_said(events: list[Plain], as_of: int) -> str | None:
    silent = (as_of - max(e.time for e in events)) // DAY
    return f"no visit for {days(silent)}" if silent else None


def visits_said(now: int, before: int, typical: int) -> str | None:
    if before:
        return f"visits on {days(now)} in the last month, on {before} in the month before" if now < before else None
    return f"visits on {days(now)} in the last month, typical is {typical}" if now < typical else None


def spend_said(now: float, before: float, typical: float, ordered: bool) -> str | None:
    if before > 0 and now <= 0:
        return f"no net spend in the last month, {before:,.2f} EUR in the month before"
    if before > 0:
        return f"spend down {int(100 * (1 - now / before))} % on the month before" if 1 - now / before >= 0.1 else None
    told = ordered and 0 <= now < 0.9 * typical
    return f"spend of {now:,.2f} EUR in the last month, typical is {typical:,.2f} EUR" if told else None


def order_said(days_since: list[int]) -> str | None:
    if not days_since:
        return "no order yet"
    return f"no order for {days(min(days_since))}" if min(days_since) >= 7 else None


def history_said(events: list[Plain], as_of: int, typical: dict[str, float]) -> str | None:
    actions = "1 action" if len(events) == 1 else f"{len(events)} actions"
    known_s = as_of - min(e.time for e in events)
    if known_s / DAY < np.expm1(typical["tenure"]):
        ago = days(known_s // DAY) if known_s >= DAY else "less than a day"
        return f"first seen {ago} ago, {actions} so far"
    return f"only {actions} so far" if len(events) < int(np.expm1(typical["n_events"])) else None


def carts_said(carts: int, taken_out: int, ordered: bool) -> str | None:
    if not (taken_out or (carts and not ordered)):
        return None
    parts = [f"cart or checkout used {carts} time{'s' * (carts > 1)}"] * bool(carts)
    parts += [f"{taken_out} item{'s' * (taken_out > 1)} taken out of the cart"] * bool(taken_out)
    return ", ".join(parts + ["no order"] * (not ordered)) + " in the last month"


def refunds_said(now: int, days_since: list[int]) -> str | None:
    if now:
        return f"{now} {'refund or cancelled order' if now == 1 else 'refunds or cancelled orders'} in the last month"
    return f"refund or cancelled order {days(min(days_since))} ago" if days_since else None


@settings(max_examples=50, deadline=None)
@given(USERS, AGES, st.integers(0, 10_000))
def test_user_with_nothing_in_a_group_gets_no_reason_from_it(users: list[list[Plain]], age_s: int, seed: int) -> None:
    for group in HAPPENED:
        model = drawn(seed)
        without = [[e for e in of_user if e.type not in group.types] for of_user in users]
        snapshot, as_of = everyone(fold_users(*([*of_user, event(START)] for of_user in without)), age_s)
        for reasons in Explainer(model, users_max=len(users)).explain(snapshot, as_of):
            assert group.code not in {reason.code for reason in reasons}


@settings(max_examples=30, deadline=None)
@given(USERS, AGES, st.integers(0, 10_000))
def test_typical_user_lacks_nothing_and_fresh_user_is_not_silent(
    users: list[list[Plain]], age_s: int, seed: int
) -> None:
    state = fold_users(*users)
    for row, number in enumerate(features(*everyone(state, age_s))):
        snapshot = state.snapshot(np.array([row]))
        last = snapshot.users["last_time"].astype(np.int64)
        model = replace(drawn(seed), typical=number.astype(float))
        (reasons,) = Explainer(model, users_max=1).explain(snapshot, last + age_s)
        assert {r.code for r in reasons}.isdisjoint(group.code for group in LACKS)
        (fresh,) = Explainer(model, users_max=1).explain(snapshot, last)
        assert "silence" not in {r.code for r in fresh}


def test_group_that_keeps_the_user_is_no_reason() -> None:
    snapshot, as_of = everyone(fold_users([event(START)]), 9 * DAY)
    loyal, leaving = Linear(), Linear()
    loyal.of_feature[FEATURES.index("recency")] = -1
    leaving.of_feature[FEATURES.index("recency")] = 1
    assert Explainer(loyal, users_max=1).explain(snapshot, as_of) == [[]]
    effect = round(float(np.log1p(9)), 4)
    assert Explainer(leaving, users_max=1).explain(snapshot, as_of) == [
        [Reason("silence", "no visit for 9 days", pytest.approx(effect, abs=2e-4))]
    ]


def test_only_the_four_strongest_of_many_reasons_are_given() -> None:
    kinds = (EventType.REFUND, EventType.CART, EventType.VIEW)
    snapshot, as_of = everyone(fold_users([ago(20 - i, kind) for i, kind in enumerate(kinds)]), 9 * DAY)
    effects = {"refunds": 0.3, "short_history": 0.2, "no_recent_order": 0.5, "carts_abandoned": 0.4, "silence": 0.6}
    model = Blaming(effects | {"bad_review": 0.9}, {"tenure": 9.0})
    (reasons,) = Explainer(model, users_max=1).explain(snapshot, as_of)
    strongest = ["silence", "no_recent_order", "carts_abandoned", "refunds"]
    assert [(r.code, r.effect) for r in reasons] == [(code, effects[code]) for code in strongest]


def test_change_that_nobody_would_notice_is_no_reason() -> None:
    user = everyone(fold_users([ago(0)]), 9 * DAY)
    for effect, expected in ((EFFECT_MIN, []), (2 * EFFECT_MIN, ["silence"])):
        (reasons,) = Explainer(Blaming({"silence": effect}), users_max=1).explain(*user)
        assert [r.code for r in reasons] == expected


# Sentences --------------------------------------------------------------------------------------------


def ago(days: float, kind: EventType = EventType.PURCHASE, value: int = 0) -> Plain:
    """An event so many days before noon of START's day; ``value`` in hundredths."""
    return event(START // DAY * DAY + DAY // 2 - round(days * DAY), kind, value)


@pytest.mark.parametrize(
    ("age_days", "expected"), [(0.9, None), (1, "no visit for 1 day"), (9.5, "no visit for 9 days")]
)
def test_silence_is_said_in_full_days(age_days: float, expected: str | None) -> None:
    assert said("silence", fold_users([ago(0)]), round(age_days * DAY)) == expected


@pytest.mark.parametrize(
    ("events", "typical", "expected"),
    [
        ([ago(40, value=10_000), ago(0, value=3_800)], 0, "spend down 62 % on the month before"),
        ([ago(40, value=10_000), ago(0, value=1)], 0, "spend down 99 % on the month before"),
        ([ago(40, value=10_000), ago(0, value=9_500)], 0, None),
        ([ago(40, value=10_000), ago(0, value=20_000)], 1_000, None),
        ([ago(40, value=10_000), ago(0)], 0, "no net spend in the last month, 100.00 EUR in the month before"),
        ([ago(0, value=3_800)], 40, None),
        ([ago(0, value=3_500)], 1_240, "spend of 35.00 EUR in the last month, typical is 1,240.00 EUR"),
        ([ago(0, EventType.VIEW)], 1_240, None),
    ],
    ids=["down", "nearly gone", "noise", "up", "gone", "near typical", "below typical", "never bought"],
)
def test_spend_is_compared_with_the_month_before_else_with_what_is_typical(
    events: list[Plain], typical: float, expected: str | None
) -> None:
    assert said("spend_down", fold_users(events), revenue_30d=float(np.log1p(typical))) == expected


@pytest.mark.parametrize(
    ("n_recent", "expected"),
    [
        (HISTORY_LEN - 2, "visits on 1 day in the last month, on 2 in the month before"),
        (HISTORY_LEN - 1, "visits on 1 day in the last month, typical is 9"),
        (HISTORY_LEN, "visits on 1 day in the last month, typical is 9"),
    ],
)
def test_month_before_is_not_compared_with_once_it_has_left_the_history(n_recent: int, expected: str) -> None:
    events = [ago(41), ago(40), *(ago(i / 1_000) for i in range(n_recent))]
    assert said("fewer_visits", fold_users(events), active_days_30d=9.0) == expected


def test_month_before_is_compared_with_where_a_full_history_reaches_back_to_it() -> None:
    events = [ago(3 * i) for i in range(HISTORY_LEN + 20)]
    expected = "visits on 2 days in the last month, on 10 in the month before"
    assert said("fewer_visits", fold_users(events), 24 * DAY, active_days_30d=0.0) == expected


@pytest.mark.parametrize(
    ("code", "events", "expected"),
    [
        ("carts_abandoned", [ago(20, EventType.CART)] * 2, "cart or checkout used 2 times, no order in the last month"),
        ("carts_abandoned", [ago(20, EventType.CART), ago(19)], None),
        ("carts_abandoned", [ago(20, EventType.UNCART), ago(19)], "1 item taken out of the cart in the last month"),
        ("carts_abandoned", [ago(40, EventType.CART), ago(0)], None),
        ("refunds", [ago(20, EventType.REFUND)] * 2, "2 refunds or cancelled orders in the last month"),
        ("refunds", [ago(45, EventType.REFUND), ago(0)], "refund or cancelled order 45 days ago"),
        ("refunds", [ago(0)], None),
        ("no_recent_order", [ago(40), ago(0, EventType.VIEW)], "no order for 40 days"),
        ("no_recent_order", [ago(6), ago(0, EventType.VIEW)], None),
        ("no_recent_order", [ago(0, EventType.VIEW)], "no order yet"),
    ],
)
def test_what_happened_is_told_of_the_last_month(code: str, events: list[Plain], expected: str | None) -> None:
    assert said(code, fold_users(events)) == expected


@pytest.mark.parametrize(
    ("events", "expected"),
    [
        ([ago(0)], "first seen less than a day ago, 1 action so far"),
        ([ago(2), ago(1), ago(0)], "first seen 2 days ago, 3 actions so far"),
        ([ago(20), ago(0)], "only 2 actions so far"),
        ([ago(20), *(ago(i / 10) for i in range(9))], None),
    ],
)
def test_history_is_short_where_a_typical_one_is_longer(events: list[Plain], expected: str | None) -> None:
    typical = {"tenure": float(np.log1p(9)), "n_events": float(np.log1p(6.5))}
    assert said("short_history", fold_users(events), **typical) == expected


@pytest.mark.parametrize(
    ("sentiments", "expected"),
    [
        ([90, -60], "last review was negative"),
        ([-90, -90, 10], "reviews were negative on average"),
        ([-90, 30], None),
        ([-50], None),
    ],
)
def test_review_is_called_bad_only_where_more_than_half_speaks_for_it(
    sentiments: list[int], expected: str | None
) -> None:
    state = fold_users([ago(1, EventType.REVIEW), ago(0)])
    state.users["reviews"][0], state.users["sentiment_sum"][0] = len(sentiments), sum(sentiments)
    state.users["sentiment_last"][0] = sentiments[-1]
    assert said("bad_review", state) == expected


# Cost -------------------------------------------------------------------------------------------------


@settings(max_examples=50, deadline=None)
@given(USERS, AGES, st.integers(0, 10_000), st.integers(0, 6))
def test_one_bounded_call_explains_the_first_users_as_if_each_were_alone(
    users: list[list[Plain]], age_s: int, seed: int, users_max: int
) -> None:
    snapshot, as_of = everyone(fold_users(*users), age_s)
    model = drawn(seed)
    together = Explainer(model, users_max=users_max).explain(snapshot, as_of)
    n = min(users_max, len(users))
    assert model.rows == [(1 + len(GROUPS)) * n] * (n > 0)
    assert len(together) == len(users)
    assert together[n:] == [[]] * (len(users) - n)
    state = fold_users(*users)
    for row in range(n):
        alone = state.snapshot(np.array([row]))
        assert Explainer(model, users_max=1).explain(alone, as_of[[row]]) == [together[row]]


def test_events_that_have_left_the_history_count_in_the_effects() -> None:
    rng = np.random.default_rng(3)
    state = fold_users(
        *([ago(d, EventType.PURCHASE, 700) for d in rng.uniform(0, 20, n).tolist()] for n in (5, 100, 7, 90, 80))
    )
    snapshot, as_of = everyone(state, 5 * DAY)
    assert snapshot.bucketed.tolist() == [1, 3, 4]
    model = Linear()
    model.typical[FEATURES.index("active_days_30d")] = 30
    model.of_feature[FEATURES.index("active_days_30d")] = -1
    explained = Explainer(model, users_max=4).explain(snapshot, as_of)
    numbers = features(snapshot, as_of)
    assert explained[4] == []
    for reasons, row in zip(explained[:4], numbers, strict=False):
        assert [r.code for r in reasons] == ["fewer_visits"]
        assert reasons[0].effect == 30 - row[FEATURES.index("active_days_30d")]


def test_model_without_typical_users_is_refused() -> None:
    with pytest.raises(ContractError, match=rf"0 typical feature values, expected {len(FEATURES)}; export the model"):
        Explainer(Linear(typical=np.zeros(0)), users_max=1)


# The shipped model ------------------------------------------------------------------------------------


def test_shipped_model_scores_lower_without_the_named_group() -> None:
    rng = np.random.default_rng(8)
    users = [
        [
            ago(float(d), EventType(int(kind)), 5_000 * int(kind == EventType.PURCHASE))
            for d, kind in zip(rng.uniform(0, 60, n), rng.choice([2, 2, 2, 3, 5, 6, 7, 8, 9], n), strict=True)
        ]
        for n in np.resize([1, 3, 8, 20, 64, 90], 30).tolist()
    ]
    snapshot, as_of = everyone(fold_users(*users), 9 * DAY)
    scorer = Scorer(DEMO_MODEL)
    explained = Explainer(scorer, users_max=len(users)).explain(snapshot, as_of)
    assert {r.code for reasons in explained for r in reasons} > {"silence"}
    tokens, numbers = occlusions(snapshot, as_of, np.array(scorer.manifest.typical, np.float32))
    for i, reasons in enumerate(explained):
        as_is = scorer.run(tokens[[i]], numbers[[i]]).churn[0]
        for reason in reasons:
            row = [(1 + CODES.index(reason.code)) * len(users) + i]
            lower = scorer.run(tokens[row], numbers[row]).churn[0]
            assert lower < as_is
            assert reason.effect == round(float(as_is - lower), 4)
