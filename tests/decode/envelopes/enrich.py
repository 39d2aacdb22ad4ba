"""Enrich: what Snowplow's enrichment makes of a tracker's payload, as far as the events of a shop need it."""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime
from typing import Any

from stream.decode.envelopes.snowplow import _COLUMNS, _N_COLUMNS

__all__ = ["enriched_line", "line_of"]

#: Field of the tracker protocol → column of the enriched event.
_FIELDS = {
    **{"eid": "event_id", "uid": "user_id", "duid": "domain_userid", "se_ac": "se_action", "co": "contexts"},
    **{"ue_pr": "unstruct_event", "tr_id": "tr_orderid", "tr_tt": "tr_total", "tr_cu": "tr_currency"},
}
_KINDS = {"ue": "unstruct", "pv": "page_view", "se": "struct"}


def enriched_line(body: bytes) -> bytes:
    """The enriched events of one payload of the tracker protocol, a line of columns each."""
    return b"\n".join(line_of(_columns(event)) for event in json.loads(body)["data"])


def line_of(columns: dict[str, Any]) -> bytes:
    """A line with these columns; all others are empty."""
    cells = [""] * _N_COLUMNS
    for place, name in _COLUMNS.items():
        cells[place] = str(columns.get(name, ""))
    return "\t".join(cells).encode()


def _columns(event: dict[str, str]) -> dict[str, Any]:
    for packed, plain in (("ue_px", "ue_pr"), ("cx", "co")):
        if packed in event:
            event[plain] = base64.urlsafe_b64decode(event[packed]).decode()
    columns: dict[str, Any] = {_FIELDS[key]: value for key, value in event.items() if key in _FIELDS}
    kind = _KINDS[event["e"]]
    time = datetime.fromtimestamp(int(event["dtm"]) / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S.%f")[:-3]
    name = "event" if kind == "struct" else kind
    if kind == "unstruct":
        name = json.loads(columns["unstruct_event"])["data"]["schema"].split("/")[1]
    return columns | {"event": kind, "event_name": name, "derived_tstamp": time, "collector_tstamp": time}
