"""Tests of mappings: any shape is read by its paths, and a file that is none is refused in one clear line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from stream.contract.events import EventType
from stream.decode.decoder import hash_bucket
from stream.decode.envelopes.mapped import envelope_of_mapping
from stream.decode.envelopes.mapping import read_mapping
from stream.decode.envelopes.paths import parts_of, struct_of, value_at
from stream.errors import ConfigError
from tests.decode.makers import ISO, TIME, Record, decoder, row, shop

LEAST = 'user = "who"\ntime = "at"\ntype = "kind"\n'


def rows_of(tmp_path: Path, mapping: str, *events: str) -> Any:
    """Users and rows of these events, read by this mapping."""
    file = tmp_path / "shop.toml"
    file.write_text(mapping, encoding="utf-8")
    out = decoder(str(file)).decode([Record(i, event.encode()) for i, event in enumerate(events)], TIME + 60)
    assert [letter.message for letter in out.dead] == []
    return out.batch.users, out.batch.rows


def test_shape_is_typed_and_ordinary_events_go_the_fast_way() -> None:
    mapping = read_mapping(Path(__file__).parents[1] / "shop.toml")
    assert envelope_of_mapping(mapping).shape is not None
    value = json.dumps(shop(kind="purchase", amount=5, order_id="o")).encode()
    assert msgspec.json.decode(value, type=envelope_of_mapping(mapping).shape) is not None
    assert row("shop", value)["value"] == 500


def test_least_mapping_names_user_time_and_type(tmp_path: Path) -> None:
    users, rows = rows_of(tmp_path, LEAST, f'{{"who": "ann", "at": "{ISO}", "kind": "Product Viewed"}}')
    assert (users, rows["type"].tolist(), rows["time"].tolist()) == (["ann"], [EventType.VIEW], [TIME])


def test_first_path_with_something_at_it_counts(tmp_path: Path) -> None:
    mapping = LEAST.replace('"who"', '["who", "cookie.id"]')
    events = [
        f'{{{who}"cookie": {{"id": "c"}}, "at": {TIME}, "kind": "view"}}'
        for who in ("", '"who": null,', '"who": "ann",')
    ]
    users, _ = rows_of(tmp_path, mapping, *events)
    assert users == ["c", "c", "ann"]


def test_first_path_counts_for_every_field_on_both_ways(tmp_path: Path) -> None:
    mapping = LEAST.replace('time = "at"', 'time = ["at", "made"]') + 'id = ["id", "uuid"]\nitem = ["sku", "ean"]\n'
    plain = f'{{"who": "a", "made": {TIME}, "kind": "view", "uuid": "x", "ean": "p"}}'
    # A price of the wrong type would be no matter; an object where a text is expected makes the struct refuse it.
    tolerant = plain.replace('"who": "a"', '"who": "a", "sku": []')
    _, rows = rows_of(tmp_path, mapping, plain, tolerant)
    assert rows["time"].tolist() == [TIME] * 2
    assert rows["item"].tolist() == [hash_bucket("p")] * 2
    assert rows["identity"][0] == rows["identity"][1]


def test_events_that_do_not_say_what_they_are_are_always_the_same(tmp_path: Path) -> None:
    mapping = 'user = "who"\ntime = "at"\nalways = "purchase"\namount = "sum"\norder = "no"\n'
    _, rows = rows_of(tmp_path, mapping, f'{{"who": 1, "at": {TIME}, "sum": "12,50", "no": 7}}')
    assert rows[["value", "type"]].tolist() == [(1_250, EventType.PURCHASE)]


def test_path_may_go_through_a_list_or_through_text(tmp_path: Path) -> None:
    mapping = LEAST + 'item = "basket.0.sku"\ncategory = "extra.group"\n'
    event = (
        f'{{"who": "a", "at": {TIME}, "kind": "view", "basket": [{{"sku": "p"}}], "extra": "{{\\"group\\": \\"g\\"}}"}}'
    )
    _, rows = rows_of(tmp_path, mapping, event)
    assert rows[["category", "item"]].tolist() == [(hash_bucket("g"), hash_bucket("p"))]


def test_lines_give_the_sum_and_the_item(tmp_path: Path) -> None:
    mapping = LEAST + 'lines = "rows"\norder = "no"\n[line]\nitem = "id"\nprice = "each"\nquantity = "n"\n'
    lines = '[{"id": "p", "each": 2.5, "n": 3}, {"each": 1}]'
    event = f'{{"who": "a", "at": {TIME}, "kind": "purchase", "no": "o", "rows": {lines}}}'
    for value in (event, event.replace('"rows": [', '"unread": 1, "rows": [null, ')):
        _, rows = rows_of(tmp_path, mapping, value)
        assert rows[["value", "item"]].tolist() == [(850, hash_bucket("p"))]


def test_names_of_the_shop_come_before_those_of_the_specifications(tmp_path: Path) -> None:
    mapping = LEAST + '[names]\n"Gekauft" = "purchase"\n"Product Viewed" = "cart"\n'
    events = [
        f'{{"who": "a", "at": {TIME}, "kind": "{kind}"}}' for kind in ("gekauft", "product_viewed", "order completed")
    ]
    _, rows = rows_of(tmp_path, mapping, *events)
    assert rows["type"].tolist() == [EventType.PURCHASE, EventType.CART, EventType.PURCHASE]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("user = ", "is not TOML"),
        ('time = "at"\ntype = "kind"', 'has no user, expected the path of it, such as user = "user"'),
        ('user = "who"\ntype = "kind"', "has no time"),
        ('user = "who"\ntime = "at"', "needs either type, the path of the event's name, or always"),
        (LEAST + 'always = "view"', "needs either type"),
        (LEAST + 'items = "x"', "has items, expected one of user, time.*; did you mean item"),
        (LEAST + "item = 5", 'item is 5, expected a path such as "order.total", or a list of paths'),
        (LEAST + "item = []", "item is .*, expected a path"),
        (LEAST + 'line = "x"', r"line is 'x', expected a table \[line\]"),
        (LEAST + '[line]\nitems = "x"', "has line.items, expected one of item, .*; did you mean line.item"),
        (
            LEAST + '[names]\n"Sold" = "purchased"',
            "names.Sold is 'purchased', expected one of .*mean purchase",
        ),
        (LEAST + '[names]\n"Sold" = 7', "names.Sold is 7, expected one of"),
    ],
)
def test_file_that_is_no_mapping_is_refused_in_one_line(tmp_path: Path, content: str, said: str) -> None:
    file = tmp_path / "shop.toml"
    file.write_text(content, encoding="utf-8")
    with pytest.raises(ConfigError, match=said) as caught:
        decoder(str(file))
    assert "\n" not in str(caught.value)
    assert "shop.toml" in str(caught.value)


def test_file_that_is_not_there_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"envelope nowhere\.toml cannot be read"):
        decoder("nowhere.toml")


@pytest.mark.parametrize(
    "paths",
    [["a.0"], ["a", "a.b"], ["a.b", "a"], ['a"b'], ["a\nb"]],
    ids=["a list", "below a field", "above a field", "a quote", "a line break"],
)
def test_where_no_struct_can_be_all_events_go_the_tolerant_way(paths: list[str]) -> None:
    assert struct_of({parts_of(path): str | None for path in paths}, ()) is None


@pytest.mark.parametrize("key", ["class", "$set", "a b", "é", "_private", "0x", "a-b"])
def test_key_of_any_kind_can_be_read(key: str, tmp_path: Path) -> None:
    mapping = LEAST + f'item = "deep.{key}"\n'
    _, rows = rows_of(tmp_path, mapping, f'{{"who": "a", "at": {TIME}, "kind": "view", "deep": {{"{key}": "p"}}}}')
    assert rows["item"].tolist() == [hash_bucket("p")]


def test_path_that_leads_nowhere_is_nothing() -> None:
    assert value_at({"a": [1]}, parts_of("a.1")) is value_at({"a": 5}, parts_of("a.b")) is value_at([], ("a",)) is None
