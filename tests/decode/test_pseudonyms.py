"""Pseudonyms: they are the standard HMAC, no user id passes decode, and weak or mixed keys are refused."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream.decode.decoder import Decoder, Money
from stream.decode.pseudonyms import Pseudonyms, check_key, pseudonyms_of
from stream.errors import ConfigError, ContractError
from stream.state.erasure import COMMAND_HEADER, ERASE
from tests.test_pipeline import Record

KEY = bytes(range(100, 140))
ANN = "p1:" + hmac.new(KEY, b"ann", hashlib.sha256).hexdigest()[:32]


def decoder(pseudonyms: Pseudonyms | None) -> Decoder:
    return Decoder("flat", Money("USD"), bytes_max=10_000, future_skew_s=300, pseudonyms=pseudonyms)


def records(*users: str | int) -> list[Record]:
    values = [json.dumps({"type": "view", "user_id": user, "ts": 1_700_000_000}).encode() for user in users]
    return [Record(i, value, 0) for i, value in enumerate(values)]


@given(st.text(min_size=1).filter(lambda text: text.isprintable()), st.binary(min_size=32, max_size=200))
def test_pseudonym_is_hmac_sha256_cut_to_128_bits(user: str, key: bytes) -> None:
    expected = hmac.new(key, user.encode(), hashlib.sha256).digest()[:16].hex()
    assert Pseudonyms(key, "k9").pseudonym_of(user) == f"pk9:{expected}"


def test_same_key_gives_the_same_pseudonym_and_another_key_or_id_another() -> None:
    others = [Pseudonyms(KEY, "1"), Pseudonyms(KEY, "2"), Pseudonyms(KEY[1:], "1")]
    assert len({pseudonyms.pseudonym_of("ann") for pseudonyms in others}) == 3
    assert Pseudonyms(KEY, "1").pseudonym_of("ann") == ANN


def test_no_user_id_passes_decode() -> None:
    erase = Record(9, None, 1_700_000_000_000, b"ann", ((COMMAND_HEADER, ERASE),))
    decoded = decoder(Pseudonyms(KEY, "1")).decode([*records("ann", 17, "17", "ann"), erase], 2e9)
    assert decoded.batch.users[0] == decoded.batch.users[3] == decoded.erasures[0].user == ANN
    assert decoded.batch.users[1] == decoded.batch.users[2]
    assert all(user.startswith("p1:") for user in decoded.batch.users)


def test_without_a_key_ids_stay_as_they_are() -> None:
    assert pseudonyms_of("", "1") is None
    assert decoder(None).decode(records("ann", 17), 2e9).batch.users == ["ann", "17"]


def test_key_is_read_from_hex_and_from_base64() -> None:
    for secret in (KEY.hex(), base64.b64encode(KEY).decode()):
        pseudonyms = pseudonyms_of(secret, "1")
        assert pseudonyms is not None
        assert pseudonyms.pseudonym_of("ann") == ANN


@pytest.mark.parametrize(
    ("secret", "message"),
    [
        (KEY[:31].hex(), "31 bytes"),
        ("00" * 32, "of 1 different values"),
        ("correct horse battery staple", "neither hex nor base64"),
        (base64.b64encode(b"password" * 8).decode(), "of 7 different values"),
    ],
)
def test_weak_key_is_refused_and_not_printed(secret: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as refused:
        pseudonyms_of(secret, "1")
    assert secret not in str(refused.value)


@pytest.mark.parametrize("key_id", ["", "a:b", "x" * 9, "é"])
def test_ambiguous_key_id_is_refused(key_id: str) -> None:
    with pytest.raises(ConfigError, match="key id"):
        pseudonyms_of(KEY.hex(), key_id)


@pytest.mark.parametrize(
    ("state", "key_id", "accepted"),
    [
        ([], "1", True),
        ([], None, True),
        ([ANN], "1", True),
        (["ann"], None, True),
        ([ANN], "2", False),
        ([ANN], None, False),
        (["ann"], "1", False),
    ],
)
def test_state_of_another_key_is_refused(state: list[str], key_id: str | None, accepted: bool) -> None:
    pseudonyms = Pseudonyms(KEY, key_id) if key_id else None
    if accepted:
        check_key(state, pseudonyms)
        return
    with pytest.raises(ContractError, match="give a new --app-id"):
        check_key(state, pseudonyms)
