"""Readers of data files: the events they give, their order, and the errors for files of a wrong shape."""

from __future__ import annotations

import gzip
import importlib.util
import json
import sys
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stream.contract.events import SEGMENT_NAMES, EventType
from stream.datasets import formats
from stream.datasets.events import Event, event_stream
from stream.datasets.formats import FORMATS, ReadSummary, read_events
from stream.decode.decoder import Decoder, Money
from stream.errors import ConfigError

REES46_HEADER = "event_time,event_type,product_id,category_id,category_code,brand,price,user_id,user_session"
TMALL_HEADER = "user_id,brand_id,type,visit_datetime"
UCI_COLUMNS = ("InvoiceNo", "StockCode", "Description", "Quantity", "InvoiceDate", "UnitPrice", "CustomerID")

in_one_folder = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=40)


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def read(path: Path, format: str) -> tuple[list[Any], ReadSummary]:
    summary = ReadSummary()
    events = list(read_events(path, format, summary))
    assert summary.events == len(events)
    return events, summary


def uci_file(path: Path, *lines: tuple[Any, ...]) -> Path:
    pa = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    columns = list(zip(*lines, strict=True)) if lines else [()] * len(UCI_COLUMNS)
    parquet.write_table(pa.table(dict(zip(UCI_COLUMNS, map(list, columns), strict=True))), path)
    return path


@pytest.fixture
def samples(tmp_path: Path) -> dict[str, Path]:
    """A small file of every format."""
    day = datetime(2010, 12, 1, 8, 26)
    return {
        "uci-online-retail": uci_file(
            tmp_path / "u.parquet",
            ("536365", "85123A", "T-LIGHT HOLDER", 6, day, 2.55, 17850),
            ("C536379", "D", "Discount", -1, day + timedelta(hours=1), 27.5, 14527),
        ),
        "tmall": write(tmp_path / "t.csv", f"{TMALL_HEADER}\n1,10,0,6-4\n2,11,1,6-3\n1,10,3,6-4\n1,12,2,6-4\n"),
        "cdnow": write(tmp_path / "c.txt", " 00001 19970103  1   11.77\n 00002 19970101  2   12.00\n"),
        "rees46": write(
            tmp_path / "r.csv",
            f"{REES46_HEADER}\n2019-10-01 00:00:01 UTC,cart,7,8,a.b,acme,9.5,u2,s\n"
            "2019-10-01 00:00:00 UTC,view,7,8,,,9.5,u1,s\n"
            "2019-10-01 00:00:02 UTC,remove_from_cart,7,8,,,9.5,u1,s\n"
            "2019-10-01 00:00:02 UTC,purchase,7,8,a.b,acme,9.5,u2,s\n",
        ),
        "jsonl": write(
            tmp_path / "j.jsonl",
            '{"type":"track","event":"Product Viewed","messageId":"m","userId":"u",'
            '"timestamp":"2024-05-01T00:00:00Z"}\n',
        ),
    }


def test_every_format_has_a_sample_in_these_tests(samples: dict[str, Path]) -> None:
    assert set(samples) == set(FORMATS)


@pytest.mark.parametrize("format", FORMATS)
def test_reading_twice_gives_the_same_bytes(samples: dict[str, Path], format: str) -> None:
    first = list(event_stream(read_events(samples[format], format)))
    assert first == list(event_stream(read_events(samples[format], format)))
    assert first


@pytest.mark.parametrize("format", FORMATS)
def test_event_times_never_go_back(samples: dict[str, Path], format: str) -> None:
    times = [time_ms for _, _, time_ms in event_stream(read_events(samples[format], format))]
    assert times == sorted(times)


@pytest.mark.parametrize("format", FORMATS)
def test_gzipped_file_reads_as_the_plain_one(samples: dict[str, Path], format: str, tmp_path: Path) -> None:
    if format == "uci-online-retail":
        pytest.skip("Parquet has its own compression")
    # The content decides whether a file is gzipped, not its name.
    zipped = tmp_path / "zipped"
    zipped.write_bytes(gzip.compress(samples[format].read_bytes()))
    assert list(read_events(zipped, format)) == list(read_events(samples[format], format))


@pytest.mark.parametrize("format", FORMATS)
def test_serving_decodes_every_event_to_a_known_type(samples: dict[str, Path], format: str) -> None:
    stream = list(event_stream(read_events(samples[format], format)))
    decoder = Decoder("segment", Money("USD", {"GBP": 1.3}), bytes_max=10_000, future_skew_s=0)
    records = [SimpleNamespace(offset=i, value=value) for i, (_, value, _) in enumerate(stream)]
    decoded = decoder.decode(records, now=datetime(2030, 1, 1, tzinfo=UTC).timestamp())
    assert not decoded.dead
    assert decoded.batch.users == [key.decode() for key, _, _ in stream]
    assert decoded.batch.rows["time"].tolist() == [time_ms // 1000 for _, _, time_ms in stream]
    assert EventType.OTHER not in decoded.batch.rows["type"]


@pytest.mark.parametrize("format", FORMATS)
def test_file_of_another_format_is_refused_in_one_line(samples: dict[str, Path], format: str) -> None:
    for other, path in samples.items():
        if other == format:
            continue
        with pytest.raises(ConfigError) as raised:
            list(read_events(path, format))
        message = str(raised.value)
        assert str(path) in message and "--format" in message and "\n" not in message


@pytest.mark.parametrize("format", FORMATS)
def test_truncated_gzip_is_a_config_error(format: str, tmp_path: Path) -> None:
    path = tmp_path / "cut.gz"
    path.write_bytes(gzip.compress(b"x" * 10_000 + bytes(range(256)) * 50)[:-30])
    with pytest.raises(ConfigError):
        list(read_events(path, format))


def test_wrong_columns_are_refused_with_the_expected_ones(tmp_path: Path) -> None:
    path = write(tmp_path / "x.csv", "user,item\n1,2\n")
    with pytest.raises(ConfigError, match=r"found columns user,item, expected columns user_id,brand_id,type"):
        list(read_events(path, "tmall"))


def test_missing_file_and_unknown_format_are_refused_before_reading(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is not a file"):
        read_events(tmp_path / "none.csv", "tmall")
    with pytest.raises(ConfigError, match="known are uci-online-retail, tmall"):
        read_events(write(tmp_path / "a", ""), "parquet")


# UCI Online Retail ------------------------------------------------------------------------------------


def test_invoice_becomes_one_order_of_its_positive_lines(tmp_path: Path) -> None:
    day = datetime(2011, 1, 4, 10, 0)
    path = uci_file(
        tmp_path / "u.parquet",
        ("1", "A", "RED MUG", 2, day, 1.5, 7),
        ("1", "B", "GLASS T-LIGHT HOLDER ", 10, day, 4.25, 7),
        ("1", "A", "RED MUG", -1, day, 1.5, 7),
        ("1", "C", None, 1, day, 0.1, None),
    )
    (event,), summary = read(path, "uci-online-retail")
    assert (event.event, event.user_id, event.timestamp) == ("Order Completed", "7", day.replace(tzinfo=UTC))
    assert msgspec.to_builtins(event.properties) == {
        "product_id": "B", "category": "holder", "price": 4.25, "quantity": 12, "order_id": "1",
        "total": 45.5, "currency": "GBP", "name": "GLASS T-LIGHT HOLDER",
    }  # fmt: skip
    assert summary.lines == 4
    assert summary.dropped == {"without customer": 1, "quantity against its invoice's sign": 1}


def test_cancelling_invoice_becomes_a_refund_of_the_absolute_value(tmp_path: Path) -> None:
    day = datetime(2011, 1, 4, 10, 0)
    path = uci_file(tmp_path / "u.parquet", ("C9", "A", None, -2, day, 1.5, 7), ("C9", "B", "CUP", -1, day, 1.0, 7))
    (event,), _ = read(path, "uci-online-retail")
    assert (event.event, event.properties.total, event.properties.order_id) == ("Order Refunded", 4.0, "C9")
    assert (event.properties.product_id, event.properties.category) == ("A", None)


def test_uci_without_pyarrow_names_the_extra(samples: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ConfigError, match=r"pip install 'valuestream\[data\]'"):
        list(read_events(samples["uci-online-retail"], "uci-online-retail"))


# Tmall and CDNOW: days --------------------------------------------------------------------------------


def test_events_of_one_day_are_spread_over_it_in_file_order(tmp_path: Path) -> None:
    lines = [f"{i % 3},{i},0,8-15" for i in range(500)]
    events, _ = read(write(tmp_path / "t.csv", "\n".join([TMALL_HEADER, *lines])), "tmall")
    assert [event.properties.product_id for event in events] == [str(i) for i in range(500)]
    times = [event.timestamp for event in events]
    assert len(set(times)) == 500
    assert {time.date() for time in times} == {datetime(2013, 8, 15).date()}
    assert times[-1] - times[0] > timedelta(hours=23)


def test_tmall_types_are_view_buy_favourite_cart(tmp_path: Path) -> None:
    lines = [f"1,9,{type_},6-4" for type_ in "0123"]
    events, _ = read(write(tmp_path / "t.csv", "\n".join([TMALL_HEADER, *lines])), "tmall")
    types = [SEGMENT_NAMES[event.event.lower()] for event in events]
    assert types == [EventType.VIEW, EventType.PURCHASE, EventType.WISHLIST, EventType.CART]
    assert all(event.properties.total is None for event in events)


@pytest.mark.parametrize("line", ["1,9,7,6-4", "1,9,0,2-30", "1,9,0", "1,9,0,x"])
def test_unreadable_tmall_line_is_dropped_and_counted(tmp_path: Path, line: str) -> None:
    events, summary = read(write(tmp_path / "t.csv", f"{TMALL_HEADER}\n1,9,0,6-4\n{line}\n"), "tmall")
    assert len(events) == 1
    assert summary.dropped == {"unreadable": 1}


def test_cdnow_sample_is_keyed_by_the_master_customer(tmp_path: Path) -> None:
    events, _ = read(write(tmp_path / "c.txt", " 00004 0001 19970101  2   29.33\n"), "cdnow")
    assert (events[0].user_id, events[0].properties.total) == ("00004", 29.33)


def test_equal_transactions_are_different_orders(tmp_path: Path) -> None:
    events, _ = read(write(tmp_path / "c.txt", " 1 19970101 2 29.33\n" * 3), "cdnow")
    assert len({event.properties.order_id for event in events}) == 3
    assert len({event.message_id for event in events}) == 3


cdnow_rows = st.lists(
    st.tuples(
        st.integers(1, 99_999), st.dates(datetime(1997, 1, 1).date(), datetime(1998, 6, 30).date()), st.integers(1, 99)
    ),
    min_size=1,
    max_size=50,
)


@in_one_folder
@given(rows=cdnow_rows)
def test_every_cdnow_row_comes_out_once_in_time_order(tmp_path: Path, rows: list[Any]) -> None:
    text = "".join(f" {user:05d} {day:%Y%m%d} {units} {units}.50\n" for user, day, units in rows)
    events, _ = read(write(tmp_path / "c.txt", text), "cdnow")
    times = [event.timestamp for event in events]
    assert times == sorted(times)
    found = Counter((int(e.user_id), e.timestamp.date(), e.properties.quantity) for e in events)
    assert found == Counter(rows)


# REES46 -----------------------------------------------------------------------------------------------


def test_rees46_line_keeps_category_price_and_brand(samples: dict[str, Path]) -> None:
    events, _ = read(samples["rees46"], "rees46")
    assert [event.event for event in events] == [
        "Product Viewed", "Product Added", "Product Removed", "Order Completed",
    ]  # fmt: skip
    assert [event.properties.category for event in events] == ["8", "a.b", "8", "a.b"]
    assert [event.properties.total for event in events] == [None, None, None, 9.5]
    assert events[-1].properties.name == "acme"


@in_one_folder
@given(seconds=st.lists(st.integers(0, 3_000), max_size=60))
def test_rees46_lines_come_out_in_time_order_and_none_is_lost(tmp_path: Path, seconds: list[int]) -> None:
    start = datetime(2019, 10, 1, tzinfo=UTC)
    lines = [f"{start + timedelta(seconds=s):%Y-%m-%d %H:%M:%S} UTC,view,{i},8,,,1,u,s" for i, s in enumerate(seconds)]
    events, summary = read(write(tmp_path / "r.csv", "\n".join([REES46_HEADER, *lines])), "rees46")
    assert [(e.timestamp - start).total_seconds() for e in events] == sorted(seconds)
    assert len({event.message_id for event in events}) == len(seconds)
    assert summary.out_of_order == 0


def test_event_too_far_out_of_order_is_sent_late_and_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(formats, "REORDER_EVENTS_MAX", 3)
    lines = [f"2019-10-01 00:00:{s:02d} UTC,view,1,8,,,1,u,s" for s in (10, 11, 12, 13, 14, 15, 1)]
    events, summary = read(write(tmp_path / "r.csv", "\n".join([REES46_HEADER, *lines])), "rees46")
    assert [event.timestamp.second for event in events] == [10, 11, 12, 1, 13, 14, 15]
    assert summary.out_of_order == 1


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("2019-10-01 00:00:01 UTC,view,7,8,,,9.5,,s", "without user"),
        ("2019-10-01 00:00:01 UTC,wink,7,8,,,9.5,u,s", "unreadable"),
        ("yesterday,view,7,8,,,9.5,u,s", "unreadable"),
        ("2019-10-01 00:00:01 UTC,view,7,8,,,dear,u,s", "unreadable"),
        ("2019-10-01 00:00:01 UTC,view", "unreadable"),
    ],
)
def test_unusable_rees46_line_is_dropped_with_its_reason(tmp_path: Path, line: str, reason: str) -> None:
    good = "2019-10-01 00:00:01 UTC,view,7,8,,,9.5,u,s"
    events, summary = read(write(tmp_path / "r.csv", f"{REES46_HEADER}\n{line}\n{good}\n"), "rees46")
    assert len(events) == 1
    assert summary.dropped == {reason: 1}


# JSON lines -------------------------------------------------------------------------------------------


@in_one_folder
@given(
    extras=st.lists(st.dictionaries(st.text(max_size=5), st.text(max_size=5) | st.integers() | st.none(), max_size=3)),
    key=st.sampled_from(["userId", "user_id", "anonymousId"]),
)
def test_json_line_is_sent_byte_for_byte(tmp_path: Path, extras: list[dict[str, Any]], key: str) -> None:
    known = {"userId", "user_id", "anonymousId", "timestamp", "ts"}
    lines = [
        json.dumps({"p": {name: value for name, value in extra.items() if name not in known}, key: f"u{i}"})
        for i, extra in enumerate(extras)
    ]
    stream = list(event_stream(read_events(write(tmp_path / "j.jsonl", "\n".join(lines)), "jsonl")))
    assert [value.decode() for _, value, _ in stream] == lines
    assert [record_key.decode() for record_key, _, _ in stream] == [f"u{i}" for i in range(len(lines))]


@pytest.mark.parametrize(
    "time", ['"2024-05-01T00:00:00Z"', "1714521600", "1714521600000", '"2024-05-01T02:00:00+02:00"']
)
def test_json_time_is_read_in_every_usual_form(tmp_path: Path, time: str) -> None:
    path = write(tmp_path / "j.jsonl", f'{{"userId":1,"timestamp":{time}}}\n{{"userId":1}}\n')
    assert [time_ms for _, _, time_ms in event_stream(read_events(path, "jsonl"))] == [1714521600000] * 2


def test_json_lines_without_user_or_broken_are_dropped(tmp_path: Path) -> None:
    path = write(tmp_path / "j.jsonl", '{"userId":"a"}\n{"userId":""}\n{broken\n')
    events, summary = read(path, "jsonl")
    assert len(events) == 1
    assert summary.dropped == {"without user": 1, "unreadable": 1}


# Real files -------------------------------------------------------------------------------------------


@pytest.mark.data
def test_uci_online_retail_has_its_published_counts(data_dir: Path) -> None:
    events, summary = read(data_dir / "uci_online_retail.parquet", "uci-online-retail")
    assert summary.lines == 541_909
    assert summary.dropped == {"without customer": 135_080}
    assert len({event.user_id for event in events}) == 4_372
    # 22,190 invoices have a customer; 3,654 of them cancel.
    assert Counter(event.event for event in events) == {"Order Completed": 18_536, "Order Refunded": 3_654}
    assert_in_order_and_unique(events)


@pytest.mark.data
def test_tmall_has_its_published_counts(data_dir: Path) -> None:
    events, summary = read(data_dir / "tmall2014_t_alibaba_data.csv.gz", "tmall")
    assert (summary.lines, len(events), len({e.user_id for e in events})) == (182_880, 182_880, 884)
    assert Counter(event.event for event in events) == {
        "Product Viewed": 174_539, "Order Completed": 6_984, "Product Added to Wishlist": 1_204, "Product Added": 153,
    }  # fmt: skip
    assert_in_order_and_unique(events)
    assert len({event.timestamp for event in events}) == len(events)


@pytest.mark.data
def test_cdnow_sample_has_its_published_counts(data_dir: Path) -> None:
    events, summary = read(data_dir / "cdnow_sample.txt.gz", "cdnow")
    assert (len(events), len({event.user_id for event in events})) == (6_919, 2_357)
    assert not summary.dropped


def test_cdnow_master_of_lifetimes_has_its_published_counts() -> None:
    # The package cannot be imported if setuptools has no pkg_resources, but its data files can be read.
    spec = importlib.util.find_spec("lifetimes")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("Lifetimes is not installed: it carries the CDNOW data")
    path = Path(spec.submodule_search_locations[0]) / "datasets" / "CDNOW_master.txt"
    events, summary = read(path, "cdnow")
    assert (len(events), len({event.user_id for event in events})) == (69_659, 23_570)
    assert not summary.dropped
    assert_in_order_and_unique(events)


def assert_in_order_and_unique(events: list[Event]) -> None:
    times = [event.timestamp for event in events]
    assert times == sorted(times)
    assert len({event.message_id for event in events}) == len(events)
