"""OAuth: the tokens with which Kafka's clients log in by SASL OAUTHBEARER.

A token comes from an OpenID Connect issuer by client credentials (RFC 6749, 4.4), or from the signer of AWS MSK. It is
kept and shared by all clients of the process, and renewed when most of its life is over. A connection that outlives its
token is ended by the broker, and the client logs in again with the token of that moment.
"""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import math
import ssl
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from http.client import HTTPException
from typing import Final, NamedTuple

from aiokafka.abc import AbstractTokenProvider as AioTokenProvider
from kafka.net.sasl.oauth import AbstractTokenProvider

from stream.errors import ConfigError
from stream.settings import Settings
from stream.tls import tls_context

__all__ = [
    "AsyncTokens",
    "BlockingTokens",
    "Token",
    "TokenError",
    "Tokens",
    "count_tokens",
    "logs_in_by_token",
    "tokens_of",
]

logger = logging.getLogger(__name__)

#: A token is renewed after this share of its life.
_RENEW_AFTER: Final = 0.8
#: How long one request may take, how often it is tried, and how long the pause between two tries is at first.
_TIMEOUT_S: Final = 5.0
_TRIES: Final = 3
_PAUSE_S: Final = 0.2
#: While the old token serves, a failed issuer is left alone for so long: each attempt makes all log-ins wait.
_AGAIN_AFTER_S: Final = 10.0
#: Answers after which asking again changes nothing.
_FINAL_CODES: Final = frozenset({400, 401, 403, 404, 405})
_ANSWER_BYTES_MAX: Final = 1 << 20
#: Life of a token whose issuer does not say how long it lives.
_LIFE_S: Final = 300.0


class TokenError(ConnectionError):
    """No token could be had. The clients take it for a broker that cannot be reached, and try again."""


class Token(NamedTuple):
    """A token, and for how many seconds it is valid from now on."""

    text: str
    life_s: float


class Tokens:
    """The token of this process. ``fetch`` gets a new one, and raises TokenError; it may be called by any thread."""

    def __init__(self, fetch: Callable[[], Token], monotonic: Callable[[], float] = time.monotonic) -> None:
        self._fetch, self._monotonic = fetch, monotonic
        self._lock = threading.Lock()
        self._token = ""
        self._renew_at = self._ends_at = -1.0
        #: Is told "renewed" or "failed" after each attempt.
        self.on_attempt: Callable[[str], object] = lambda _outcome: None

    def token(self) -> str:
        """The token to log in with. It is renewed first if most of its life is over.

        If the issuer fails, the old token serves to its end. Raises TokenError after that.
        """
        with self._lock:
            now = self._monotonic()
            if now >= self._renew_at:
                try:
                    fetched = self._fetch()
                except TokenError as error:
                    self.on_attempt("failed")
                    if now >= self._ends_at:
                        raise
                    self._renew_at = min(self._ends_at, self._monotonic() + _AGAIN_AFTER_S)
                    logger.warning("the token for Kafka could not be renewed, the old one serves on: %s", error)
                else:
                    self.on_attempt("renewed")
                    self._token = fetched.text
                    self._renew_at, self._ends_at = now + _RENEW_AFTER * fetched.life_s, now + fetched.life_s
            return self._token


class BlockingTokens(AbstractTokenProvider):  # type: ignore[misc]
    """Gives tokens to kafka-python, in the thread of its connections."""

    def __init__(self, tokens: Tokens) -> None:
        super().__init__()
        self._tokens = tokens

    def token(self) -> str:
        """The token to log in with."""
        return self._tokens.token()


class AsyncTokens(AioTokenProvider):  # type: ignore[misc]
    """Gives tokens to aiokafka. The issuer is asked in a thread, so that the loop goes on."""

    def __init__(self, tokens: Tokens) -> None:
        super().__init__()
        self._tokens = tokens

    async def token(self) -> str:
        """The token to log in with."""
        return await asyncio.to_thread(self._tokens.token)


def tokens_of(settings: Settings) -> Tokens:
    """The tokens of these settings; the same object for the same settings.

    Raises ConfigError for settings that lack something.
    """
    if settings.oauth_provider == "aws-msk-iam":
        return _signed_tokens(settings.oauth_aws_region)
    url, client_id = settings.oauth_token_url, settings.oauth_client_id
    secret = settings.oauth_client_secret.get_secret_value()
    if not (url and client_id and secret):
        raise ConfigError(
            "SASL mechanism OAUTHBEARER lacks an issuer, a client or its secret; expected --oauth-token-url,"
            " --oauth-client-id and VALUESTREAM_OAUTH_CLIENT_SECRET; set all three"
        )
    parts = urllib.parse.urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigError(f"oauth_token_url is {url!r}, expected https://host/path; set --oauth-token-url")
    fields = {"grant_type": "client_credentials", "scope": settings.oauth_scope, **settings.oauth_parameters}
    form = urllib.parse.urlencode({name: value for name, value in fields.items() if value})
    tls = tls_context(settings, "oauth_") if parts.scheme == "https" else None
    return _issued_tokens(_Issuer(url, client_id, secret, form, str(settings.oauth_ssl_cafile), tls))


def count_tokens(settings: Settings, on_attempt: Callable[[str], object]) -> None:
    """Tell ``on_attempt`` of each attempt from now on, if these settings log in by token."""
    if logs_in_by_token(settings):
        tokens_of(settings).on_attempt = on_attempt


def logs_in_by_token(settings: Settings) -> bool:
    """Whether clients of these settings log in by SASL OAUTHBEARER."""
    return settings.security_protocol.startswith("SASL") and settings.sasl_mechanism == "OAUTHBEARER"


# -- an issuer ------------------------------------------------------------------------------------------------


class _RefusedError(TokenError):
    """The issuer answered, and gave no token. It is not asked again at once."""


@dataclass(frozen=True, slots=True)
class _Issuer:
    """An OpenID Connect issuer, and what we say to it."""

    url: str
    client_id: str
    secret: str
    form: str
    cafile: str
    tls: ssl.SSLContext | None = field(compare=False)

    def token(self) -> Token:
        """Ask for a token, some times and with growing pauses. Raises TokenError."""
        for attempt in range(_TRIES - 1):
            try:
                return self._ask()
            except _RefusedError:
                raise
            except TokenError:
                time.sleep(_PAUSE_S * 2**attempt)
        return self._ask()

    def _ask(self) -> Token:
        # RFC 6749, 2.3.1: both are form-encoded before they are joined.
        login = ":".join(urllib.parse.quote_plus(part) for part in (self.client_id, self.secret))
        headers = {
            "Authorization": f"Basic {base64.b64encode(login.encode()).decode()}",
            "Content-Type": "application/x-www-form-urlencoded",
            "Accept": "application/json",
        }
        request = urllib.request.Request(self.url, self.form.encode(), headers)
        try:
            with urllib.request.urlopen(request, timeout=_TIMEOUT_S, context=self.tls) as answer:
                content = answer.read(_ANSWER_BYTES_MAX)
        except urllib.error.HTTPError as error:
            kind = _RefusedError if error.code in _FINAL_CODES else TokenError
            raise kind(
                f"the issuer {self.url} answered {error.code} to client {self.client_id!r}, expected a token;"
                " check --oauth-token-url, --oauth-client-id and VALUESTREAM_OAUTH_CLIENT_SECRET"
            ) from None
        except (OSError, ValueError, HTTPException) as error:
            reason = getattr(error, "reason", error)
            raise TokenError(f"no answer from the issuer {self.url} ({reason}); check --oauth-token-url") from None
        return self._read(content)

    def _read(self, content: bytes) -> Token:
        try:
            answer = json.loads(content)
            text, kind = answer["access_token"], str(answer.get("token_type", "bearer"))
            life_s = float(answer.get("expires_in", _LIFE_S))
        except (ValueError, TypeError, KeyError, AttributeError):
            raise _RefusedError(f"the issuer {self.url} answered without an access_token; check its address") from None
        if not isinstance(text, str) or not text or kind.lower() != "bearer" or not 0 < life_s < math.inf:
            raise _RefusedError(
                f"the issuer {self.url} gave a token of type {kind!r:.20} for {life_s:.0f} s, expected a bearer token"
            )
        return Token(text, life_s)


@lru_cache(maxsize=8)
def _issued_tokens(issuer: _Issuer) -> Tokens:
    return Tokens(issuer.token)


# -- AWS ------------------------------------------------------------------------------------------------------


@lru_cache(maxsize=8)
def _signed_tokens(region: str) -> Tokens:
    """Tokens of AWS MSK IAM, made by Amazon's signer from the credentials of this machine."""
    if not region:
        raise ConfigError(
            "OAuth provider aws-msk-iam lacks a region, expected one such as eu-west-1; set --oauth-aws-region"
        )
    try:
        from aws_msk_iam_sasl_signer import MSKAuthTokenProvider
    except ImportError:
        raise ConfigError(
            "OAuth provider aws-msk-iam is set, and aws-msk-iam-sasl-signer-python is not installed;"
            " pip install 'valuestream[msk]'"
        ) from None

    def sign() -> Token:
        try:
            text, ends_ms = MSKAuthTokenProvider.generate_auth_token(region)
        except Exception as error:
            # The signer raises whatever botocore does.
            raise TokenError(f"AWS gave no credentials to sign with ({type(error).__name__})") from error
        return Token(text, ends_ms / 1000 - time.time())

    return Tokens(sign)
