"""``events check --topic`` looks at the newest events of a real topic, and at what only records tell."""

from __future__ import annotations

import json
import time

from click.testing import CliRunner

from stream.commands.events.command import events
from tests.broker.harness import produce, track


def test_newest_events_of_a_topic_are_looked_at_with_their_keys(make_settings) -> None:
    settings, now = make_settings(), time.time()
    by_user = [(f"u{i % 7}".encode(), track(f"u{i % 7}", "Product Viewed", now, f"m{i}")) for i in range(300)]
    by_session = [(f"s{i}".encode(), track(f"u{i % 7}", "Coupon Denied", now + 60, f"n{i}")) for i in range(100)]
    produce(settings, by_user + by_session)
    flags = ["--topic", settings.events_topic, "--bootstrap-servers", settings.bootstrap_servers, "--json"]
    result = CliRunner().invoke(events, ["check", *flags])
    assert result.exit_code == 0, result.output
    found = json.loads(result.output)["findings"]
    assert (found["n_records"], found["types"]) == (400, {"other": 100, "view": 300})
    assert (found["n_keyed"], found["n_other_keys"], found["n_fast_clocks"]) == (400, 100, 100)
    assert found["unknown_names"] == {"Coupon Denied": 100}
    fewer = json.loads(CliRunner().invoke(events, ["check", *flags, "--limit", "40"]).output)["findings"]
    assert 0 < fewer["n_records"] <= 40
