"""Presets: the envelopes that have a name, and the way from the setting to an envelope."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from stream.decode.envelopes.cloudevents import CLOUDEVENTS
from stream.decode.envelopes.envelope import Envelope
from stream.decode.envelopes.flat import FLAT
from stream.decode.envelopes.ga4 import GA4
from stream.decode.envelopes.mapped import envelope_of_mapping
from stream.decode.envelopes.mapping import read_mapping
from stream.decode.envelopes.posthog import POSTHOG
from stream.decode.envelopes.segment import SEGMENT
from stream.decode.envelopes.shopify import SHOPIFY
from stream.decode.envelopes.snowplow import SNOWPLOW
from stream.decode.envelopes.woocommerce import WOOCOMMERCE
from stream.errors import ConfigError

__all__ = ["PRESETS", "envelope_of"]

PRESETS: Final = {
    "segment": SEGMENT,
    "flat": FLAT,
    # RudderStack sends calls of the Segment specification.
    "rudderstack": SEGMENT,
    "posthog": POSTHOG,
    "snowplow": SNOWPLOW,
    "ga4": GA4,
    "cloudevents": CLOUDEVENTS,
    "shopify": SHOPIFY,
    "woocommerce": WOOCOMMERCE,
}


def envelope_of(name: str) -> Envelope:
    """The envelope of a preset, or of the mapping in a TOML file. Raises ConfigError for anything else."""
    if name in PRESETS:
        return PRESETS[name]
    if name.endswith(".toml"):
        return envelope_of_mapping(read_mapping(Path(name)))
    raise ConfigError(
        f"envelope is {name!r}, expected one of {', '.join(PRESETS)}, or a file such as shop.toml; set --envelope"
    )
