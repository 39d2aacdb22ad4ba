"""The simulated market: the same events for a seed, in time order, true to its shoppers and its distributions."""

from __future__ import annotations

from collections import defaultdict
from datetime import UTC, datetime, timedelta
from itertools import islice
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream.contract.events import EventType
from stream.datasets.events import Event, event_stream
from stream.datasets.market import Habits, Market, Shopper
from stream.decode.decoder import Decoder, Money
from stream.errors import ConfigError

START = datetime(2024, 1, 1, tzinfo=UTC)
DAY = timedelta(days=1)
FOLLOW_UPS = ("Order Refunded", "Product Reviewed")


def days(duration: timedelta) -> float:
    return duration / DAY


def sessions_of(events: list[Event]) -> dict[str, list[list[Event]]]:
    """The events of each user, cut into sessions by silences of ten minutes: gaps within a session are far shorter."""
    sessions: dict[str, list[list[Event]]] = defaultdict(list)
    for event in events:
        if event.event in FOLLOW_UPS:
            continue
        of_user = sessions[event.user_id]
        if of_user and event.timestamp - of_user[-1][-1].timestamp < timedelta(minutes=10):
            of_user[-1].append(event)
        else:
            of_user.append([event])
    return sessions


@pytest.fixture(scope="module")
def market() -> tuple[list[Event], dict[str, Shopper]]:
    """90 days of 2,000 shoppers who all arrive at once, and no others."""
    market = Market(2_000, START, seed=11, habits=Habits(ramp_days=0), arrivals_per_day=0)
    events = list(market.events(START + 90 * DAY))
    return events, {shopper.user_id: shopper for shopper in market.shoppers}


@settings(deadline=None, max_examples=25)
@given(
    users=st.integers(1, 40), seed=st.integers(0, 2**63), start=st.datetimes(datetime(2000, 1, 1), datetime(2030, 1, 1))
)
def test_events_are_ordered_unique_and_within_the_lives_of_their_shoppers(
    users: int, seed: int, start: datetime
) -> None:
    market = Market(users, start.replace(tzinfo=UTC), seed)
    events = list(islice(market.events(), 300))
    shoppers = {shopper.user_id: shopper for shopper in market.shoppers}
    times = [event.timestamp for event in events]
    assert times == sorted(times)
    assert len({event.message_id for event in events}) == 300
    for event in events:
        shopper = shoppers[event.user_id]
        assert shopper.arrived_at <= event.timestamp < shopper.churned_at


@settings(deadline=None, max_examples=10)
@given(users=st.integers(1, 40), seed=st.integers(0, 2**32))
def test_same_arguments_give_the_same_bytes_and_shoppers(users: int, seed: int) -> None:
    one, other = Market(users, START, seed), Market(users, START, seed)
    first = list(event_stream(islice(one.events(), 200)))
    assert first == list(event_stream(islice(other.events(), 200)))
    assert one.shoppers == other.shoppers
    assert first == list(event_stream(islice(one.events(), 200)))


def test_other_seeds_and_starts_share_no_message_ids() -> None:
    markets = [Market(20, START, 1), Market(20, START, 2), Market(20, START + DAY, 1), Market(21, START, 1)]
    ids = [event.message_id for market in markets for event in islice(market.events(), 100)]
    assert len(set(ids)) == len(ids)


def test_last_event_is_the_last_one_before_until() -> None:
    until = START + timedelta(days=9, hours=5)
    cut = list(Market(50, START, 4).events(until))
    more = list(islice(Market(50, START, 4).events(), len(cut) + 1))
    assert more[:-1] == cut
    assert more[-1].timestamp >= until > cut[-1].timestamp


def test_market_without_arrivals_ends_when_the_last_shopper_has_left() -> None:
    market = Market(5, START, seed=2, habits=Habits(hazard_beta_days=5.0), arrivals_per_day=0)
    events = list(market.events())
    assert len(market.shoppers) == 5
    assert events[-1].timestamp < max(shopper.churned_at for shopper in market.shoppers)


def test_first_event_of_every_shopper_is_at_arrival(market: tuple[list[Event], dict[str, Shopper]]) -> None:
    events, shoppers = market
    first: dict[str, datetime] = {}
    for event in events:
        first.setdefault(event.user_id, event.timestamp)
    # A shopper whose lifetime ends within milliseconds of arrival would have no event. None of these do.
    assert first.keys() == shoppers.keys()
    assert all(first[user] == shopper.arrived_at for user, shopper in shoppers.items())


def test_lifetimes_follow_the_lomax_law(market: tuple[list[Event], dict[str, Shopper]]) -> None:
    lives = np.array([days(s.churned_at - s.arrived_at) for s in market[1].values()])
    for t in (7.0, 30.0, 60.0, 180.0):
        expected = (60 / (60 + t)) ** 2
        error = np.sqrt(expected * (1 - expected) / len(lives))
        assert abs((lives > t).mean() - expected) < 4 * error


def test_rates_and_hazards_have_the_moments_of_their_gammas(market: tuple[list[Event], dict[str, Shopper]]) -> None:
    shoppers = market[1].values()
    for values, mean in (
        ([s.session_rate_per_day for s in shoppers], 0.5),
        ([s.dropout_hazard_per_day for s in shoppers], 2 / 60),
    ):
        # Shape 2: the standard deviation is mean / √2.
        assert abs(np.mean(values) - mean) < 4 * mean / np.sqrt(2 * len(values))
        assert np.std(values) == pytest.approx(mean / np.sqrt(2), rel=0.12)


def test_sessions_come_at_the_shoppers_own_rates(market: tuple[list[Event], dict[str, Shopper]]) -> None:
    events, shoppers = market
    sessions = sessions_of(events)
    by_rate = sorted(shoppers.values(), key=lambda shopper: shopper.session_rate_per_day)
    for tercile in (by_rate[:667], by_rate[667:1333], by_rate[1333:]):
        # The first session is at arrival, the others are Poisson until churn or the end.
        expected = sum(
            s.session_rate_per_day * days(min(s.churned_at, START + 90 * DAY) - s.arrived_at) for s in tercile
        )
        found = sum(len(sessions[s.user_id]) - 1 for s in tercile)
        # The 2 % are for sessions of one shopper within ten minutes of each other, which are seen as one session.
        assert abs(found - expected) < 4 * np.sqrt(expected) + 0.02 * expected


def test_spend_stays_around_the_personal_mean(market: tuple[list[Event], dict[str, Shopper]]) -> None:
    events, shoppers = market
    ratios = [
        event.properties.price / shoppers[event.user_id].spend_mean
        for event in events
        if event.event == "Product Viewed" and event.properties.price is not None
    ]
    assert np.mean(ratios) == pytest.approx(1.0, abs=0.02)


def test_order_total_is_what_stayed_in_the_cart(market: tuple[list[Event], dict[str, Shopper]]) -> None:
    matches = []
    for of_user in sessions_of(market[0]).values():
        for session in of_user:
            order = session[-1]
            if order.event == "Order Completed":
                added = sum(e.properties.price or 0 for e in session if e.event == "Product Added")
                removed = sum(e.properties.price or 0 for e in session if e.event == "Product Removed")
                matches.append(order.properties.total == pytest.approx(added - removed, abs=0.005))
    assert len(matches) > 1_000
    # Only two sessions of one shopper within ten minutes may differ: they are seen as one session here.
    assert np.mean(matches) > 0.98


def test_refund_repeats_an_earlier_order_of_the_same_shopper(market: tuple[list[Event], dict[str, Shopper]]) -> None:
    orders: dict[str | None, Event] = {}
    refunds = 0
    for event in market[0]:
        if event.event == "Order Completed":
            assert event.properties.order_id not in orders
            orders[event.properties.order_id] = event
        elif event.event == "Order Refunded":
            order = orders[event.properties.order_id]
            refunds += 1
            assert (order.user_id, order.properties.total) == (event.user_id, event.properties.total)
            assert timedelta(days=1) <= event.timestamp - order.timestamp <= timedelta(days=10)
    assert refunds > 20


def views_of_last_sessions(fading: float) -> tuple[float, float]:
    """Mean views of the sessions in the last three days before churn, and of those more than 30 days before churn."""
    market = Market(2_000, START, seed=5, habits=Habits(fading=fading, ramp_days=0), arrivals_per_day=0)
    sessions = sessions_of(list(market.events(START + 60 * DAY)))
    shoppers = {shopper.user_id: shopper for shopper in market.shoppers}
    last, before = [], []
    for user, of_user in sessions.items():
        for session in of_user:
            left = days(shoppers[user].churned_at - session[0].timestamp)
            n_views = sum(event.event == "Product Viewed" for event in session)
            # The last minutes are left out: churn in the middle of a session cuts it short, with or without fading.
            if 0.1 < left < 3:
                last.append(n_views)
            elif left > 30:
                before.append(n_views)
    return float(np.mean(last)), float(np.mean(before))


def test_fading_shortens_only_the_sessions_before_leaving() -> None:
    last, before = views_of_last_sessions(fading=1.0)
    assert last < 0.7 * before
    last, before = views_of_last_sessions(fading=0.0)
    assert last == pytest.approx(before, rel=0.05)


def test_new_shoppers_keep_arriving_at_the_set_rate() -> None:
    market = Market(10, START, seed=3, arrivals_per_day=40)
    for _ in market.events(START + 50 * DAY):
        pass
    until = START + 50 * DAY
    arrived = sum(shopper.arrived_at < until for shopper in market.shoppers) - 10
    assert abs(arrived - 2_000) < 4 * np.sqrt(2_000)


def test_serving_decodes_every_event_to_a_known_type(market: tuple[list[Event], dict[str, Shopper]]) -> None:
    events = market[0][:20_000]
    records = [SimpleNamespace(offset=i, value=value) for i, (_, value, _) in enumerate(event_stream(events))]
    decoder = Decoder("segment", Money("USD"), bytes_max=10_000, future_skew_s=0)
    decoded = decoder.decode(records, now=(START + 90 * DAY).timestamp())
    assert not decoded.dead
    assert set(decoded.batch.rows["type"].tolist()) == set(EventType) - {EventType.OTHER}


@pytest.mark.parametrize(
    ("users", "start", "seed", "named"),
    [(0, START, 1, "--users"), (1, START, -1, "--seed"), (1, START.replace(tzinfo=None), 1, "zone")],
)
def test_wrong_argument_is_a_config_error_that_names_it(users: int, start: datetime, seed: int, named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        Market(users, start, seed)
