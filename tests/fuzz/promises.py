"""Promises: what must hold for any input. Hypothesis checks it in the suite, atheris in ``make fuzz``."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import msgspec
import numpy as np
from aiokafka.producer.message_accumulator import BatchBuilder

from stream.checkpoint import changelog
from stream.commands.console import printable
from stream.contract.columns import STATE_VERSION
from stream.contract.events import EVENT, EventType
from stream.contract.score import Churn, LifetimeValue, ModelRef, Score
from stream.decode.dead_letters import dead_letter
from stream.decode.decoder import DeadLetter, Decoded, Decoder, Money
from stream.errors import ContractError
from stream.kafka.topics import required_topics
from stream.metrics import IGNORABLE_FIELDS
from stream.outgoing import Outgoing
from stream.score.decide import encode_json
from stream.settings import Settings
from stream.state.partition_state import PartitionState
from tests.decode.envelopes.examples import EXAMPLES
from tests.decode.makers import ALL_MAKERS, ISO, NOW, REASONS, SKEW_S, envelope

RATES = {"EUR": 1.1, "JPY": 0.0065, "BIG": 1e300}
BYTES_MAX = 65_536
_SCORE = Score(
    score_id="s",
    user_id="?",
    as_of=ISO,
    model=ModelRef("m", "1", "0" * 64),
    n_events=1,
    data_sufficiency="low",
    churn=Churn(0.5, "low", 14),
    purchase=[],
    ltv=LifetimeValue(0, 1, "USD", 30),
    applied_offset=0,
)
Headers = Sequence[tuple[str, bytes | None]]


@dataclass(frozen=True)
class Record:
    """A consumer record as aiokafka gives it."""

    value: bytes | None
    offset: int = 0
    key: bytes | None = b"k"
    headers: Headers = ()
    timestamp: int = 1_735_600_000_000


def decoder(preset: str, bytes_max: int = BYTES_MAX) -> Decoder:
    return Decoder(envelope(preset), Money("USD", RATES), bytes_max=bytes_max, future_skew_s=SKEW_S)


def outcome(one: Decoder, value: bytes | None, now: float = NOW) -> str:
    """The outcome of one value: ``event``, ``ignored``, or the reason of its dead letter."""
    out = one.decode([Record(value)], now)
    assert (max(bool(out.records), len(out.dead)) + out.n_ignored, out.erasures) == (1, [])
    assert len(out.batch.users) == len(out.batch.rows) == len(out.records)
    if out.dead:
        assert out.dead[0].reason in REASONS
        return out.dead[0].reason
    return "event" if out.records else "ignored"


@cache
def _good(preset: str) -> bytes:
    if preset in EXAMPLES:
        return json.dumps(EXAMPLES[preset][0]).encode()
    return json.dumps(ALL_MAKERS[preset](kind="purchase", user="good", event_id="g", order_id="o", amount=9.5)).encode()


def check_decode(
    preset: str, values: Sequence[bytes | None], headers: Headers = (), one: Decoder | None = None
) -> None:
    """Each value has exactly one outcome, and it does not change the good events around it."""
    one, good = one or decoder(preset), _good(preset)
    around: list[bytes | None] = [good, *(v for value in values for v in (value, good))]
    records = [Record(value, offset, headers=headers) for offset, value in enumerate(around)]
    out = one.decode(records, NOW)
    used, dead_at = {r.offset for r in out.records}, [d.record.offset for d in out.dead]
    assert len(dead_at) == len(set(dead_at))
    assert len(used.union(dead_at)) + out.n_ignored + len(out.erasures) == len(records)
    assert out.batch.rows["offset"].tolist() == [r.offset for r in out.records]
    assert out.fields_ignored.keys() <= set(IGNORABLE_FIELDS)
    assert len(out.batch.users) == len(out.batch.rows)
    rows = out.batch.rows[out.batch.rows["offset"] % 2 == 0]
    (alone,) = one.decode(records[:1], NOW).batch.rows
    names = [name for name in EVENT.names or () if name != "offset"]
    assert len(rows) == len(values) + 1
    assert (rows[names] == alone[names]).all()
    check_events(out)
    for dead in out.dead:
        check_dead_letter(dead)
    check_users(out)


def check_events(out: Decoded) -> None:
    """Rows keep within the limits that the state relies on."""
    rows = out.batch.rows
    assert ((rows["time"] >= 1) & (rows["time"] <= NOW + SKEW_S)).all()
    assert ((rows["type"] >= 1) & (rows["type"] <= max(EventType))).all()
    assert (rows["identity"] != 0).all()
    for place, text in out.reviews:
        assert rows["type"][place] == EventType.REVIEW
        assert text.encode()


def check_users(out: Decoded) -> None:
    """Everything that uses a user id accepts it: state, changelog and its keys, scores, and the terminal."""
    users = set(out.batch.users) - {"good"}
    for user in users:
        assert 1 <= len(user) <= 256
        assert "\0" not in user
        assert user.encode().decode() == user
        score = encode_json(msgspec.structs.replace(_SCORE, user_id=user))
        assert json.loads(score)["user_id"] == user
        assert printable(user).isprintable()
    if users:
        state = PartitionState(lateness_s=2**32)
        state.apply(out.batch)
        assert users <= set(state.ids)
        check_changelog(changelog.pack(state, np.arange(len(state))), must_be_read=True)


def check_changelog(values: Sequence[bytes], *, must_be_read: bool = False) -> bool:
    """Values are refused with a message, or read into users that can be packed and read again. Returns whether read."""
    users = [f"u{i}" for i in range(len(values))]
    state = PartitionState(lateness_s=0)
    try:
        rows = changelog.load(state, users, list(values))
    except ContractError as error:
        assert not must_be_read, error
        assert "; " in str(error)
        return False
    packed = changelog.pack(state, rows)
    assert {value[0] for value in packed} <= {STATE_VERSION}
    again = PartitionState(lateness_s=0)
    assert changelog.pack(again, changelog.load(again, users, packed)) == packed
    return True


def check_dead_letter(dead: DeadLetter) -> Outgoing:
    """A dead letter has a known reason, has each of our headers once, and fits its topic."""
    assert dead.reason in REASONS
    made = dead_letter(dead, "events", 3)
    names = [name for name, _ in made.headers]
    for name in ("valuestream.error.reason", "valuestream.error.message", "valuestream.attempt"):
        assert names.count(name) == 1
    builder = BatchBuilder(100_000_000, 0)
    assert builder.append(key=made.key, value=made.value, timestamp=0, headers=list(made.headers))
    builder.close()
    assert builder.size() <= _dlq_bytes_max()
    return made


@cache
def _dlq_bytes_max() -> int:
    (topic,) = [t for t in required_topics(Settings(), 1) if t.name == Settings().dlq_topic]
    return int(topic.config["max.message.bytes"])
