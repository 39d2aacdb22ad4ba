"""Tests of the alert rules: they use only metrics and limits of the service, and each alert fires when it should."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from stream.metrics import OUTCOMES, SLO_SECONDS, Metrics
from stream.service.health import STALL_TIMEOUT_S
from stream.settings import Settings
from tests.deploy.files import PATH, PROMETHEUS, load

PROMTOOL = shutil.which("promtool", path=PATH)
needs_promtool = pytest.mark.skipif(
    PROMTOOL is None, reason="promtool is not installed; on Debian: apt-get install prometheus"
)


def rules() -> list[dict[str, Any]]:
    return [rule for group in load(PROMETHEUS / "alerts.yml")["groups"] for rule in group["rules"]]


def alerts() -> list[dict[str, Any]]:
    return [rule for rule in rules() if "alert" in rule]


def names_in(text: str) -> set[str]:
    """Names of our metrics in a PromQL expression or series, without the suffixes of a histogram's parts."""
    names = re.findall(r"(?<![:\w])valuestream_\w+", text)
    return {re.sub(r"_(bucket|count|sum)$", "", name) for name in names}


def test_every_metric_in_the_rules_and_their_tests_exists() -> None:
    known = {doc.name for doc in Metrics().docs}
    texts = " ".join(rule["expr"] + " ".join(rule.get("annotations", {}).values()) for rule in rules())
    series = " ".join(
        entry["series"] for test in load(PROMETHEUS / "alerts_test.yml")["tests"] for entry in test["input_series"]
    )
    assert names_in(texts)
    assert names_in(texts) <= known
    assert names_in(series) <= known


def test_every_label_value_in_the_rules_is_served() -> None:
    served = Metrics().render()[0].decode()
    text = " ".join(rule["expr"] for rule in rules())
    for label, value in re.findall(r'(outcome|le)="([^"]+)"', text):
        assert f'{label}="{value}"' in served
    assert set(re.findall(r'outcome="([^"]+)"', text)) <= {*OUTCOMES, "ok", "failed"}


def test_rules_use_the_service_level_of_the_metrics() -> None:
    edges = {float(edge) for rule in rules() for edge in re.findall(r'le="([^"]+)"', rule["expr"])}
    assert edges == {SLO_SECONDS}


def test_rules_use_the_limits_of_the_service() -> None:
    by_name = {alert["alert"]: alert for alert in alerts()}
    assert f"commit_age_seconds > {STALL_TIMEOUT_S:.0f}" in by_name["ValuestreamNoCommits"]["expr"]
    slow_s = 60 * float(by_name["ValuestreamRecoverySlow"]["for"].removesuffix("m"))
    assert slow_s < Settings(_env_file=None).recovery_deadline_s


@pytest.mark.parametrize("alert", alerts(), ids=lambda alert: alert["alert"])
def test_every_alert_is_a_page_or_a_ticket_and_has_a_next_step(alert: dict[str, Any]) -> None:
    assert alert["labels"]["severity"] in {"page", "ticket"}
    assert set(alert["annotations"]) == {"summary", "next_step"}


def expected_to_fire() -> Iterator[str]:
    for test in load(PROMETHEUS / "alerts_test.yml")["tests"]:
        for case in test.get("alert_rule_test", []):
            if case["exp_alerts"]:
                yield case["alertname"]
        for case in test.get("promql_expr_test", []):
            for sample in case["exp_samples"]:
                yield from re.findall(r'alertname="(\w+)"', sample["labels"])


def test_every_alert_fires_in_a_rule_test() -> None:
    assert set(expected_to_fire()) == {alert["alert"] for alert in alerts()}


def promtool(*arguments: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    assert PROMTOOL is not None
    return subprocess.run([PROMTOOL, *arguments], input=stdin, capture_output=True, timeout=120, check=False)


@needs_promtool
def test_promtool_accepts_the_scrape_configuration_and_the_rules() -> None:
    done = promtool("check", "config", str(PROMETHEUS / "prometheus.yml"))
    assert done.returncode == 0, done.stdout + done.stderr


@needs_promtool
def test_promtool_confirms_that_every_alert_fires_and_stays_quiet_as_expected() -> None:
    done = promtool("test", "rules", str(PROMETHEUS / "alerts_test.yml"))
    assert done.returncode == 0, done.stdout + done.stderr


@needs_promtool
def test_promtool_finds_no_fault_in_the_metrics() -> None:
    metrics = Metrics()
    metrics.set_model("demo", "1", "aa", "cpu")
    metrics.consumer_lag.labels(partition="0").set(1)
    metrics.dead_letters.labels(reason="malformed").inc()
    metrics.alerts.labels(rule="churn_high").inc()
    done = promtool("check", "metrics", stdin=metrics.render()[0])
    assert (done.returncode, done.stdout + done.stderr) == (0, b"")
