"""All settings of the service. They are read once, in ``cli.main``, and passed down.

Every setting can come from a flag, from the environment (``VALUESTREAM_`` and the name in capitals) or
from a ``.env`` file. A flag wins over the environment, and the environment over the file. ``group`` is the heading
under which ``--help`` shows the setting.
"""

from __future__ import annotations

from datetime import UTC, tzinfo
from pathlib import Path
from typing import Any, Final, Literal, Self
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import Field, SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

__all__ = ["ENV_PREFIX", "Settings", "zone_of"]

#: The name of the variable of a setting is this and its name in capitals.
ENV_PREFIX: Final = "VALUESTREAM_"


def _setting(default: Any, group: str, help: str, **bounds: Any) -> Any:
    return Field(default=default, description=help, json_schema_extra={"group": group}, **bounds)


def zone_of(name: str) -> tzinfo:
    """The time zone of an IANA name. Raises ValueError if there is none of this name here."""
    try:
        # UTC needs no database of time zones, which small images lack.
        return UTC if name == "UTC" else ZoneInfo(name)
    except (ValueError, OSError, ZoneInfoNotFoundError):
        raise ValueError("expected the IANA name of a time zone, such as Europe/Berlin") from None


class Settings(BaseSettings):
    """The settings of the service. A wrong value is refused: the error names setting, value and what is allowed."""

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX,
        env_file=".env",
        extra="ignore",
        frozen=True,
        protected_namespaces=(),
        allow_inf_nan=False,
    )

    # Kafka -------------------------------------------------------------------------------------------
    bootstrap_servers: str = _setting("127.0.0.1:9092", "Kafka", "Brokers, as host:port,host:port.")
    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = _setting(
        "PLAINTEXT", "Kafka", "Protocol to the brokers."
    )
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER"] = _setting(
        "PLAIN", "Kafka", "SASL mechanism, used if the protocol is SASL_*."
    )
    sasl_username: str = _setting("", "Kafka", "SASL user.")
    sasl_password: SecretStr = _setting(SecretStr(""), "Kafka", "SASL password; best set in the environment.")
    oauth_provider: Literal["oidc", "aws-msk-iam"] = _setting(
        "oidc", "Kafka", "Who gives the tokens of OAUTHBEARER: an OpenID Connect issuer, or the signer of AWS MSK."
    )
    oauth_token_url: str = _setting("", "Kafka", "Address of the issuer's token endpoint.")
    oauth_client_id: str = _setting("", "Kafka", "Our client id at the issuer.")
    oauth_client_secret: SecretStr = _setting(SecretStr(""), "Kafka", "Its secret; best set in the environment.")
    oauth_scope: str = _setting("", "Kafka", "Scope to ask for.")
    oauth_parameters: dict[str, str] = _setting(
        {}, "Kafka", 'More fields of the request for a token, as JSON: {"audience": "kafka"}.'
    )
    oauth_ssl_cafile: Path | None = _setting(None, "Kafka", "CA certificate of the issuer (PEM).")
    oauth_ssl_certfile: Path | None = _setting(None, "Kafka", "Our certificate for the issuer (PEM).")
    oauth_ssl_keyfile: Path | None = _setting(None, "Kafka", "Its key (PEM).")
    oauth_aws_region: str = _setting("", "Kafka", "AWS region of the MSK cluster.")
    ssl_cafile: Path | None = _setting(None, "Kafka", "CA certificate that signed the brokers' certificates.")
    ssl_certfile: Path | None = _setting(None, "Kafka", "Client certificate, for mutual TLS.")
    ssl_keyfile: Path | None = _setting(None, "Kafka", "Key of the client certificate.")
    app_id: str = _setting("valuestream", "Kafka", "Consumer group, and prefix of the changelog topic.")
    instance_id: str = _setting(
        "",
        "Kafka",
        "Stable name of this worker (static membership). With it, a restarted worker gets its partitions back at once.",
    )
    session_timeout_s: float = _setting(
        8.0,
        "Kafka",
        "A dead worker's partitions move after this time. Shorter moves them sooner, but a pause counts as death.",
        ge=1,
    )

    # Measured on 2026-12-01 (docs/performance.md): zstd halves the changelog and makes scores 6 times smaller. It costs
    # 5 µs of CPU a changelog record. The default is none all the same: readers of the scores may lack the codec.
    compression: Literal["none", "lz4", "zstd"] = _setting(
        "none",
        "Kafka",
        "Codec of what we send: changelog, scores, alerts, simulated and replayed events. zstd saves disk and network"
        " for a little CPU. Every reader needs the codec.",
    )

    # Topics ------------------------------------------------------------------------------------------
    events_topic: str = _setting("events", "Topics", "Topic of the clickstream, keyed by user id.")
    scores_topic: str = _setting("scores", "Topics", "Topic of the scores: compacted, keyed by user id.")
    alerts_topic: str = _setting("alerts", "Topics", "Topic of the alerts.")
    dlq_topic: str = _setting(
        "events-dlq", "Topics", "Topic of the dead letters: events that cannot be used, with the reason."
    )

    # Events ------------------------------------------------------------------------------------------
    envelope: str = _setting(
        "segment",
        "Events",
        "Envelope of the events: segment, flat, rudderstack, posthog, snowplow, ga4, cloudevents, shopify, woocommerce,"
        " or a mapping such as shop.toml.",
    )
    fx_rates: dict[str, float] = _setting(
        {}, "Events", 'What one unit of another currency is worth in the currency of the model, as JSON: {"EUR": 1.08}.'
    )
    decimal_comma: bool | None = _setting(
        None,
        "Events",
        "Whether an amount such as 1,234 has a decimal comma (true) or a thousand (false)."
        " Without it, such an amount makes a dead letter.",
    )
    naive_time_zone: str = _setting("UTC", "Events", "IANA time zone of event times that name none.")
    placeholder_ids: list[str] = _setting(
        [], "Events", 'More words that stand for no user, order or event, as JSON: ["test"].'
    )
    event_bytes_max: int = _setting(262_144, "Events", "A larger record becomes a dead letter.", ge=256)
    lateness_s: float = _setting(
        86_400.0, "Events", "How far an event may be behind the newest event of its partition and still count.", ge=0
    )
    future_skew_s: float = _setting(300.0, "Events", "How far the time of an event may be ahead of our clock.", ge=0)

    @field_validator(
        *("app_id", "events_topic", "scores_topic", "alerts_topic", "dlq_topic", "envelope"),
        "http_host",
    )
    @classmethod
    def _check_named(cls, name: str) -> str:
        if not name.strip():
            raise ValueError("expected a name; leave the setting out for its default")
        return name.strip()

    @field_validator("*")
    @classmethod
    def _expand_home(cls, value: Any) -> Any:
        return value.expanduser() if isinstance(value, Path) else value

    @model_validator(mode="after")
    def _check_alert_bounds(self) -> Self:
        if self.alert_churn_clear > self.alert_churn_high:
            raise ValueError(
                f"alert_churn_clear is {self.alert_churn_clear:g}, expected at most alert_churn_high"
                f" ({self.alert_churn_high:g}), so that an alert can end; set one of them"
            )
        return self

    @field_validator("naive_time_zone")
    @classmethod
    def _check_zone(cls, name: str) -> str:
        zone_of(name)
        return name

    # Schema registry ---------------------------------------------------------------------------------
    schema_registry_url: str = _setting(
        "",
        "Schema registry",
        "URL of a schema registry, or several with commas between. Events in the Confluent wire format (Avro, Protobuf,"
        " JSON Schema) are read by its schemas.",
    )
    schema_registry_user: str = _setting("", "Schema registry", "User at the registry (basic authentication).")
    schema_registry_password: SecretStr = _setting(
        SecretStr(""), "Schema registry", "Password of that user; best set in the environment."
    )
    schema_registry_ssl_cafile: Path | None = _setting(
        None, "Schema registry", "CA certificate that signed the registry's certificate."
    )
    schema_registry_ssl_certfile: Path | None = _setting(
        None, "Schema registry", "Client certificate for the registry, for mutual TLS."
    )
    schema_registry_ssl_keyfile: Path | None = _setting(None, "Schema registry", "Key of that certificate.")
    scores_format: Literal["json", "avro"] = _setting(
        "json",
        "Schema registry",
        "Format of scores and alerts. avro is the Confluent wire format, with schemas that are registered under"
        " TOPIC-value at the start.",
    )

    # State -------------------------------------------------------------------------------------------
    data_dir: Path = _setting(
        Path(".valuestream/state"), "State", "Folder of the local store of user state; each worker needs its own."
    )
    fetch_records_max: int = _setting(
        4_000, "State", "Records taken from the broker at a time. More is faster, fewer is smoother.", ge=1
    )
    checkpoint_interval_s: float = _setting(
        1.0,
        "State",
        "How often state, outputs and offsets become durable. Longer writes less, but replays more after a crash.",
        gt=0,
    )
    recovery_deadline_s: float = _setting(600.0, "State", "A recovery that takes longer ends the worker.", gt=0)
    standby_replicas: int = _setting(
        1,
        "State",
        "Other workers that keep a copy of each partition's state, to take over at once. Each costs disk and reads.",
        ge=0,
    )

    # Scoring -----------------------------------------------------------------------------------------
    model_dir: Path | None = _setting(None, "Scoring", "Model folder. Without it, the shipped demo model serves.")
    model_public_key: Path | None = _setting(
        None, "Scoring", "PEM file of an Ed25519 public key. Only model folders signed with its private key are served."
    )
    provider: Literal["cpu", "cuda"] = _setting(
        "cpu",
        "Scoring",
        "Where the model runs. If it cannot run there, the worker does not start.",
    )
    model_variant: Literal["fp32", "int8", "fp16"] = _setting(
        "fp32",
        "Scoring",
        "Variant of the model in its folder. The model card says how much quality each variant loses.",
    )
    inference_threads: int = _setting(1, "Scoring", "CPU threads for one inference.", ge=1)
    sentiment_dir: Path | None = _setting(
        None, "Scoring", "Folder of the sentiment model. Without it, the texts of reviews are not read."
    )
    reviews_pending_max: int = _setting(
        2_000,
        "Scoring",
        "Ingestion waits while this many reviews wait for their sentiment. More takes larger bursts but replays more.",
        ge=1,
    )
    refresh_interval_s: float = _setting(
        1.0, "Scoring", "A user with new events is scored at most once in this time.", ge=0
    )
    batch_users_max: int = _setting(256, "Scoring", "Most users in one inference.", ge=1)
    explain_users_max: int = _setting(
        16, "Scoring", "Most alerted users of a batch that get reasons. Each costs nine scores.", ge=0
    )
    idle_sweep_s: float = _setting(1.0, "Scoring", "How often the worker looks for silent users.", gt=0)

    # Alerts ------------------------------------------------------------------------------------------
    alert_churn_high: float = _setting(
        0.7,
        "Alerts",
        "Churn probability at which a user enters the high band and an alert goes out.",
        ge=0,
        le=1,
    )
    alert_churn_clear: float = _setting(
        0.6, "Alerts", "Churn probability below which another alert becomes possible (hysteresis).", ge=0, le=1
    )
    alert_cooldown_s: float = _setting(
        86_400.0, "Alerts", "Event time that must pass between two alerts for one user.", ge=0
    )

    # Privacy -----------------------------------------------------------------------------------------
    pseudonym_key: SecretStr = _setting(
        SecretStr(""),
        "Privacy",
        "Key for hashes that are kept in place of user ids: 32 random bytes or more, as hex or base64; best set in the"
        " environment.",
    )
    pseudonym_key_id: str = _setting(
        "1", "Privacy", "Name of that key. It is in every pseudonym (p1:...); the state of another key is refused."
    )

    # Operations --------------------------------------------------------------------------------------
    http_host: str = _setting(
        "127.0.0.1", "Operations", "Address where metrics and health pages listen; loopback by default."
    )
    http_port: int = _setting(
        9464, "Operations", "Port of /metrics and /health/*; 0 takes a free port.", ge=0, le=65_535
    )
    log_format: Literal["text", "json"] = _setting("text", "Operations", "Logs for people or for machines.")
    log_level: Literal["debug", "info", "warning", "error"] = _setting("info", "Operations", "How much to log.")
    stall_timeout_s: float = _setting(
        60.0,
        "Operations",
        "A worker ends when records wait and nothing is committed for this long, or the broker does not answer for"
        " this long. After half of that time it is not ready.",
        gt=0,
    )
    stop_timeout_s: float = _setting(10.0, "Operations", "A stop that takes longer is forced.", gt=0)
