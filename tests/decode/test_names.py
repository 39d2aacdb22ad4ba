"""Names as numbers: a name always gives the same number, and memory is bounded."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream.contract.events import SEGMENT_NAMES, EventType
from stream.decode import names
from stream.decode.names import EventKinds, HashBuckets, hash_bucket

NAMES = st.none() | st.integers() | st.text(max_size=80)


@given(st.lists(NAMES, max_size=40))
def test_remembered_bucket_equals_the_computed_one(asked: list[str | int | None]) -> None:
    buckets = HashBuckets()
    for name in asked + asked:
        assert buckets[name] == hash_bucket(name)


def test_no_name_is_bucket_zero_and_never_listed_also_after_the_dict_was_emptied(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(names, "_BUCKETS_MAX", 10)
    buckets = HashBuckets(["null"])
    assert buckets["null"] == 0
    for i in range(25):
        assert (buckets[f"n{i}"], buckets[None], buckets[""]) == (hash_bucket(f"n{i}"), 0, 0)
        assert len(buckets.keys() - {None, "", "null"}) <= 10
        assert 0 not in buckets.names()


def test_first_of_two_names_in_one_bucket_is_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(names, "hash_bucket", lambda name: 7)
    buckets = HashBuckets()
    assert (buckets["first"], buckets["second"], buckets.names()) == (7, 7, {7: "first"})


def test_event_name_is_known_in_any_case_and_unknown_ones_are_other() -> None:
    kinds = EventKinds(SEGMENT_NAMES)
    for spelling in ("Product Viewed", "product viewed", "PRODUCT VIEWED") * 2:
        assert kinds[spelling] == EventType.VIEW
    for spelling in ("product_viewed", "productViewed", " Product  Viewed ", "product-viewed", "ProductViewed"):
        assert kinds[spelling] == EventType.VIEW
    assert kinds["Coupon Denied"] == kinds["Coupon Denied"] == EventType.OTHER


def test_spellings_that_never_repeat_do_not_fill_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(names, "_SPELLINGS_MAX", 10)
    kinds = EventKinds(SEGMENT_NAMES)
    for i in range(50):
        assert kinds[f"event {i}"] == kinds["x" * 1_000] == EventType.OTHER
        assert kinds["Order Completed"] == EventType.PURCHASE
        assert len(kinds) <= 10
        assert max(map(len, kinds)) <= 64


def test_names_in_no_table_are_counted_and_their_number_is_bounded() -> None:
    kinds = EventKinds(SEGMENT_NAMES)
    for _ in range(3):
        assert kinds["Coupon Denied"] == EventType.OTHER
    assert kinds["product viewed"] == EventType.VIEW
    assert kinds.unknown == {"Coupon Denied": 3}
    for i in range(5_000):
        assert kinds[f"name {i}"] == kinds["x" * 1_000 + str(i)] == EventType.OTHER
    assert len(kinds.unknown) <= 1_001
    assert kinds.unknown["(others)"] == 5_000 + 5_000 - 998
