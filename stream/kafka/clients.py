"""Clients: turns settings into the configuration of every Kafka client, and connects with one clear error."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import ssl
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Final

import aiokafka.errors
from aiokafka.conn import create_conn
from kafka import KafkaAdminClient
from kafka.errors import KafkaError
from kafka.net.compat import KafkaNetClient

from stream.errors import ConfigError
from stream.kafka.codecs import require_codecs
from stream.kafka.oauth import AsyncTokens, BlockingTokens, TokenError, Tokens, logs_in_by_token, tokens_of
from stream.settings import Settings
from stream.tls import tls_context

if TYPE_CHECKING:
    import faust

__all__ = [
    "aiokafka_config",
    "answers",
    "connect",
    "faust_credentials",
    "kafka_python_config",
    "ssl_context",
]

#: How long a command waits for its first answer from a broker.
_CONNECT_TIMEOUT_S: Final = 5.0
#: How long one administrative request may take once connected.
_REQUEST_TIMEOUT_S: Final = 15.0


def ssl_context(settings: Settings) -> ssl.SSLContext | None:
    """Make the TLS context of the settings; None if the protocol has no TLS. A ConfigError names a bad file."""
    if settings.security_protocol not in ("SSL", "SASL_SSL"):
        return None
    return tls_context(settings)


def kafka_python_config(settings: Settings) -> dict[str, Any]:
    """Return the keyword arguments for every client of kafka-python."""
    return _client_config(settings, BlockingTokens)


def aiokafka_config(settings: Settings) -> dict[str, Any]:
    """Return the keyword arguments for every client of aiokafka."""
    return _client_config(settings, AsyncTokens)


def faust_credentials(
    settings: Settings,
) -> faust.SASLCredentials | faust.OAuthCredentials | faust.SSLCredentials | None:
    """Return the credentials for ``faust.App(broker_credentials=…)``; None for PLAINTEXT."""
    import faust

    context = ssl_context(settings)
    if logs_in_by_token(settings):
        return faust.OAuthCredentials(oauth_cb=AsyncTokens(tokens_of(settings)), ssl_context=context)
    if settings.security_protocol.startswith("SASL"):
        return faust.SASLCredentials(
            username=_username(settings),
            password=settings.sasl_password.get_secret_value(),
            ssl_context=context,
            mechanism=settings.sasl_mechanism,
        )
    return faust.SSLCredentials(context) if context is not None else None


def connect(settings: Settings) -> KafkaAdminClient:
    """Connect an admin client. Raises ConfigError with one line if no broker answers within about 5 s."""
    config = kafka_python_config(settings)
    with _quiet():
        _probe(settings)
        try:
            return _admin(_CONNECT_TIMEOUT_S, config)
        except (KafkaError, OSError) as error:
            raise _unreachable(settings, settings.bootstrap_servers, error) from error


def answers(bootstrap_servers: str, timeout_s: float) -> bool:
    """Return whether a broker at this plaintext address answers a metadata request within the time."""
    with _quiet():
        try:
            _admin(min(timeout_s, _CONNECT_TIMEOUT_S), {"bootstrap_servers": bootstrap_servers}).close()
        except (KafkaError, OSError):
            return False
    return True


def _probe(settings: Settings) -> None:
    """Open a connection and log in, and raise ConfigError with the reason if that fails.

    kafka-python would only say that time is up. The probe runs in a thread, because the caller may be inside a running
    event loop.
    """
    if logs_in_by_token(settings):
        try:
            tokens_of(settings).token()
        except TokenError as error:
            raise ConfigError(str(error)) from error
    with ThreadPoolExecutor(1) as thread:
        failure = thread.submit(asyncio.run, _try_all(settings)).result()
    if failure is not None:
        raise _explained(settings, *failure) from failure[1]


async def _try_all(settings: Settings) -> tuple[str, BaseException] | None:
    """Return None if any bootstrap server lets us in; else the first server and its error."""
    config = aiokafka_config(settings)
    servers: list[str] = config.pop("bootstrap_servers")
    results = await asyncio.gather(*(_try_one(server, config) for server in servers), return_exceptions=True)
    failures = [(server, error) for server, error in zip(servers, results, strict=True) if error is not None]
    return failures[0] if len(failures) == len(servers) else None


async def _try_one(server: str, config: dict[str, Any]) -> None:
    host, _, port = server.rpartition(":")
    async with asyncio.timeout(_CONNECT_TIMEOUT_S):
        connection = await create_conn(host.strip("[]"), int(port), **config)
    closed = connection.close()
    if closed is not None:
        await closed


def _client_config(settings: Settings, token_provider: Callable[[Tokens], Any]) -> dict[str, Any]:
    """Return the arguments that kafka-python and aiokafka have in common, under the same names.

    Everyone who opens a client comes by here, so this is where a missing codec is noticed.
    """
    require_codecs()
    config: dict[str, Any] = {
        "bootstrap_servers": _servers(settings),
        "security_protocol": settings.security_protocol,
    }
    context = ssl_context(settings)
    if context is not None:
        config["ssl_context"] = context
    if settings.security_protocol.startswith("SASL"):
        config["sasl_mechanism"] = settings.sasl_mechanism
    if logs_in_by_token(settings):
        config["sasl_oauth_token_provider"] = token_provider(tokens_of(settings))
    elif settings.security_protocol.startswith("SASL"):
        config["sasl_plain_username"] = _username(settings)
        config["sasl_plain_password"] = settings.sasl_password.get_secret_value()
    return config


def _servers(settings: Settings) -> list[str]:
    servers = [server.strip() for server in settings.bootstrap_servers.split(",")]
    for server in servers:
        host, _, port = server.rpartition(":")
        if not host or not port.isdecimal() or not 0 < int(port) < 65_536:
            raise ConfigError(
                f"bootstrap server {server!r} is no address; expected host:port,host:port;"
                f" set {_flag('bootstrap_servers')}"
            )
    return servers


def _username(settings: Settings) -> str:
    if not settings.sasl_username:
        raise ConfigError(
            f"security protocol {settings.security_protocol} has no user; expected --sasl-username and"
            " VALUESTREAM_SASL_PASSWORD; set both"
        )
    return settings.sasl_username


def _admin(timeout_s: float, config: dict[str, Any]) -> KafkaAdminClient:
    """Make an admin client. If it cannot connect, its thread and sockets are closed as well."""
    made: list[KafkaNetClient] = []

    def remember(**kwargs: Any) -> KafkaNetClient:
        made.append(KafkaNetClient(**kwargs))
        return made[-1]

    try:
        return KafkaAdminClient(
            **config,
            kafka_client=remember,
            bootstrap_timeout_ms=int(timeout_s * 1000),
            request_timeout_ms=int(_REQUEST_TIMEOUT_S * 1000),
            reconnect_backoff_max_ms=1_000,
        )
    except BaseException:
        for client in made:
            client.close()
        raise


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the log of the clients off the terminal while they connect: our error says it in one line."""
    loggers = [logging.getLogger(name) for name in ("kafka", "aiokafka")]
    propagated, nothing = [logger.propagate for logger in loggers], logging.NullHandler()
    for logger in loggers:
        logger.addHandler(nothing)
        logger.propagate = False
    try:
        yield
    finally:
        for logger, propagate in zip(loggers, propagated, strict=True):
            logger.removeHandler(nothing)
            logger.propagate = propagate


def _explained(settings: Settings, server: str, error: BaseException) -> ConfigError:
    """Make the error that says why this broker did not let us in, and what to do about it."""
    if isinstance(error, aiokafka.errors.SaslAuthenticationFailed) and logs_in_by_token(settings):
        return ConfigError(
            f"the broker at {server} refused our token (OAUTHBEARER); expected one of an issuer that it trusts;"
            f" check {_flag('oauth_token_url')}, {_flag('oauth_scope')} and {_flag('oauth_parameters')}"
        )
    if isinstance(error, aiokafka.errors.UnsupportedSaslMechanismError):
        return ConfigError(
            f"the broker at {server} does not offer SASL mechanism {settings.sasl_mechanism}; expected one that it"
            f" has enabled; set {_flag('sasl_mechanism')}"
        )
    if isinstance(error, aiokafka.errors.IllegalSaslStateError):
        return ConfigError(
            f"the broker at {server} takes no SASL log-in, but the security protocol is"
            f" {settings.security_protocol}; expected its own protocol; set {_flag('security_protocol')}"
        )
    if isinstance(error, aiokafka.errors.SaslAuthenticationFailed):
        return ConfigError(
            f"the broker at {server} refused user {settings.sasl_username!r} ({settings.sasl_mechanism});"
            " expected a user and password that it knows; check --sasl-username and VALUESTREAM_SASL_PASSWORD"
        )
    if isinstance(error, ssl.SSLError):
        return ConfigError(
            f"no TLS connection to {server} ({_cause(error)}); expected a TLS listener whose certificate we trust;"
            f" check {_flag('security_protocol')}, {_flag('ssl_cafile')}, and that {_flag('bootstrap_servers')} has the"
            " name that the certificate is for"
        )
    return _unreachable(settings, server, error)


def _unreachable(settings: Settings, server: str, error: BaseException) -> ConfigError:
    if settings.security_protocol == "SSL" and isinstance(error, KafkaError | aiokafka.errors.KafkaError):
        # Both sides agreed on TLS, and then the broker hung up: this is how it asks for a certificate or a log-in.
        return ConfigError(
            f"the broker at {server} ended the connection ({_cause(error)}); expected it to take us without a log-in,"
            f" and with the client certificate that we have or have not; set {_flag('ssl_certfile')} and"
            f" {_flag('ssl_keyfile')}, or a SASL {_flag('security_protocol')}"
        )
    return ConfigError(
        f"no answer from {server} ({_cause(error)}); expected a Kafka broker that speaks"
        f" {settings.security_protocol}; start one (`valuestream broker start`), or set"
        f" {_flag('bootstrap_servers')} and {_flag('security_protocol')}"
    )


def _cause(error: BaseException) -> str:
    """Return the reason in a few words, on one line."""
    if isinstance(error, TimeoutError):
        return f"silence for {_CONNECT_TIMEOUT_S:.0f} s"
    if isinstance(error, OSError) and not isinstance(error, ssl.SSLError) and (error.errno or 0) > 0:
        return os.strerror(error.errno or 0)
    return " ".join(str(error).split()) or type(error).__name__


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')} (VALUESTREAM_{name.upper()})"
