"""Issuer: a local OpenID Connect issuer of unsecured tokens, which Kafka's default validator reads."""

from __future__ import annotations

import base64
import json
import time
import urllib.parse
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from tests.loopback import answering

__all__ = ["Issuer", "issuer", "unsecured"]


@dataclass
class Issuer:
    """What the issuer answers, and what it was asked. A ``status`` other than 200 is the answer to everything."""

    port: int = 0
    life_s: float = 20
    client: tuple[str, str] = ("shop", "s:ecret/ü")
    status: int = 200
    delay_s: float = 0
    body: bytes | None = None
    asked: list[dict[str, str]] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/token"

    def settings(self, **others: Any) -> dict[str, Any]:
        """The settings of a client that logs in by this issuer."""
        client_id, secret = self.client
        by_token = {"security_protocol": "SASL_PLAINTEXT", "sasl_mechanism": "OAUTHBEARER"}
        ours = {"oauth_token_url": self.url, "oauth_client_id": client_id, "oauth_client_secret": secret}
        return {**by_token, **ours, **others}

    def answer(self, authorization: str, body: bytes) -> tuple[int, bytes]:
        self.asked.append(dict(urllib.parse.parse_qsl(body.decode())))
        time.sleep(self.delay_s)
        if self.status != 200:
            return self.status, b'{"error": "as told"}'
        client_id, _, secret = base64.b64decode(authorization.removeprefix("Basic ")).decode().partition(":")
        if (urllib.parse.unquote_plus(client_id), urllib.parse.unquote_plus(secret)) != self.client:
            return 401, b'{"error": "invalid_client"}'
        token = {"access_token": unsecured("shop", self.life_s), "token_type": "Bearer", "expires_in": self.life_s}
        return 200, self.body or json.dumps(token).encode()


def unsecured(subject: str, life_s: float) -> str:
    """An unsecured JSON web token."""
    now = time.time()
    parts = ({"alg": "none"}, {"sub": subject, "iat": now, "exp": now + life_s})
    return ".".join(base64.urlsafe_b64encode(json.dumps(p).encode()).decode().rstrip("=") for p in parts) + "."


@contextmanager
def issuer(**told: Any) -> Iterator[Issuer]:
    """An issuer on a free port of loopback, for as long as the block runs."""
    ours = Issuer(**told)
    with answering(ours.answer) as ours.port:
        yield ours
