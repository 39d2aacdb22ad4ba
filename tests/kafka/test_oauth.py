"""Tests of OAuth: tokens are got, kept, renewed before they end, and every failure is one clear line."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest

from stream.commands.options import load_settings
from stream.errors import ConfigError
from stream.kafka.clients import aiokafka_config, connect, faust_credentials, kafka_python_config
from stream.kafka.oauth import AsyncTokens, BlockingTokens, Token, TokenError, Tokens, count_tokens, tokens_of
from stream.settings import Settings
from tests.kafka.issuer import issuer

SECRET = "s:ecret/ü"


class Fetch:
    """Gives token after token, or fails while ``failing``."""

    def __init__(self, life_s: float = 100.0) -> None:
        self.life_s, self.n, self.failing = life_s, 0, False

    def __call__(self) -> Token:
        if self.failing:
            raise TokenError("the issuer is down")
        self.n += 1
        return Token(f"token {self.n}", self.life_s)


def tokens_at(times: list[float], fetch: Fetch) -> Tokens:
    """Tokens whose clock is the first of ``times``."""
    return Tokens(fetch, lambda: times[0])


def test_token_is_kept_and_renewed_when_most_of_its_life_is_over() -> None:
    now, fetch = [0.0], Fetch()
    tokens = tokens_at(now, fetch)
    found = []
    for now[0] in (0, 1, 79, 80, 81, 159, 160):
        found.append(tokens.token())
    assert found == ["token 1"] * 3 + ["token 2"] * 3 + ["token 3"]


def test_old_token_serves_to_its_end_while_the_issuer_is_down(caplog: pytest.LogCaptureFixture) -> None:
    now, fetch, attempts = [0.0], Fetch(), list[str]()
    tokens = tokens_at(now, fetch)
    tokens.on_attempt = attempts.append
    tokens.token()
    fetch.failing, now[0] = True, 90
    with caplog.at_level(logging.WARNING):
        assert tokens.token() == "token 1"
    assert "the old one serves on: the issuer is down" in caplog.text
    now[0] = 100
    with pytest.raises(TokenError, match="the issuer is down"):
        tokens.token()
    fetch.failing = False
    assert tokens.token() == "token 2"
    assert attempts == ["renewed", "failed", "failed", "renewed"]


def test_failed_issuer_is_left_alone_for_a_while_and_log_ins_do_not_wait_for_it() -> None:
    now, fetch, attempts = [0.0], Fetch(life_s=1_000), list[str]()
    tokens = tokens_at(now, fetch)
    tokens.token()
    tokens.on_attempt = attempts.append
    fetch.failing = True
    for now[0] in (800, 801, 809.9):
        assert tokens.token() == "token 1"
    assert attempts == ["failed"]
    now[0] = 810
    assert tokens.token() == "token 1"
    assert attempts == ["failed"] * 2
    fetch.failing, now[0] = False, 820
    assert tokens.token() == "token 2"


def test_issuer_is_asked_as_the_standard_says_and_settings_share_their_token() -> None:
    with issuer() as ours:
        settings = Settings(**ours.settings(oauth_scope="kafka", oauth_parameters={"audience": "events"}))
        first = tokens_of(settings).token()
        assert tokens_of(settings.model_copy()).token() == first
        assert ours.asked == [{"grant_type": "client_credentials", "scope": "kafka", "audience": "events"}]


async def test_every_client_gets_the_token_in_its_own_way() -> None:
    with issuer() as ours:
        settings = Settings(**ours.settings())
        blocking = kafka_python_config(settings)["sasl_oauth_token_provider"]
        waiting = aiokafka_config(settings)["sasl_oauth_token_provider"]
        credentials: Any = faust_credentials(settings)
        assert isinstance(blocking, BlockingTokens)
        assert isinstance(waiting, AsyncTokens)
        found = {blocking.token(), await waiting.token(), await credentials.oauth_cb.token()}
        assert len(found) == len(ours.asked) == 1
        assert "sasl_plain_username" not in kafka_python_config(settings)


async def test_loop_goes_on_while_the_issuer_is_slow() -> None:
    with issuer(delay_s=0.5) as ours:
        waiting = asyncio.ensure_future(AsyncTokens(tokens_of(Settings(**ours.settings()))).token())
        turns = 0
        while not waiting.done():
            await asyncio.sleep(0.01)
            turns += 1
        assert await waiting
        assert turns > 5


@pytest.mark.parametrize(
    ("told", "said", "n_asked"),
    [
        ({"client": ("shop", "another")}, "answered 401 to client 'shop'.*VALUESTREAM_OAUTH_CLIENT_SECRET", 1),
        ({"status": 503}, "answered 503 to client", 3),
        ({"body": b"<html>"}, "answered without an access_token", 1),
        ({"body": b'{"token": "x"}'}, "answered without an access_token", 1),
        ({"body": b"[]"}, "answered without an access_token", 1),
        ({"body": b'{"access_token": "x", "token_type": "mac"}'}, "gave a token of type 'mac'", 1),
        ({"body": b'{"access_token": "x", "expires_in": -1}'}, "for -1 s, expected a bearer token", 1),
        ({"body": b'{"access_token": "x", "expires_in": "soon"}'}, "answered without an access_token", 1),
    ],
)
def test_answer_without_a_token_is_one_line(told: dict[str, Any], said: str, n_asked: int) -> None:
    with issuer(**told) as ours:
        values = ours.settings(oauth_client_secret=SECRET)
        with pytest.raises(TokenError, match=said) as caught:
            tokens_of(Settings(**values)).token()
        with pytest.raises(ConfigError, match=said):
            connect(Settings(bootstrap_servers="127.0.0.1:1", **values))
        assert len(ours.asked) == 2 * n_asked
    assert "\n" not in str(caught.value)
    assert SECRET not in str(caught.value)


def test_issuer_that_is_not_there_is_one_line() -> None:
    settings = Settings(
        security_protocol="SASL_SSL",
        sasl_mechanism="OAUTHBEARER",
        oauth_token_url="http://127.0.0.1:1/token",
        oauth_client_id="shop",
        oauth_client_secret="x",  # type: ignore[arg-type]
    )
    with pytest.raises(ConfigError, match=r"no answer from the issuer http://127\.0\.0\.1:1/token"):
        connect(settings)


@pytest.mark.parametrize("missing", ["oauth_token_url", "oauth_client_id", "oauth_client_secret"])
def test_settings_that_lack_something_say_what(missing: str) -> None:
    values: dict[str, Any] = {
        **{"security_protocol": "SASL_SSL", "sasl_mechanism": "OAUTHBEARER", "oauth_token_url": "https://i/t"},
        **{"oauth_client_id": "shop", "oauth_client_secret": "x"},
    }
    with pytest.raises(ConfigError, match=r"lacks an issuer, a client or its secret.*set all three"):
        kafka_python_config(Settings(**{**values, missing: ""}))
    with pytest.raises(ConfigError, match="expected https://host/path"):
        kafka_python_config(Settings(**{**values, "oauth_token_url": "file:///etc/passwd"}))


@pytest.mark.parametrize("mechanism", ["GSSAPI", "NTLM"])
def test_mechanism_that_we_do_not_speak_is_one_line(mechanism: str) -> None:
    with pytest.raises(
        ConfigError, match=f"setting sasl_mechanism: found '{mechanism}', input should be 'PLAIN'"
    ) as caught:
        load_settings(sasl_mechanism=mechanism)
    assert "\n" not in str(caught.value)


def test_aws_signs_with_the_credentials_of_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "example")
    values = {"security_protocol": "SASL_SSL", "sasl_mechanism": "OAUTHBEARER", "oauth_provider": "aws-msk-iam"}
    settings = Settings(**values, oauth_aws_region="eu-west-1")  # type: ignore[arg-type]
    assert len(tokens_of(settings).token()) > 100
    with pytest.raises(ConfigError, match="lacks a region"):
        kafka_python_config(Settings(**values))  # type: ignore[arg-type]


def test_attempts_are_counted_where_clients_log_in_by_token() -> None:
    with issuer() as ours:
        settings, attempts = Settings(**ours.settings()), list[str]()
        count_tokens(settings, attempts.append)
        tokens_of(settings).token()
        assert attempts == ["renewed"]
        count_tokens(Settings(), attempts.append)
