"""Tests of settings as a person gives them: what nothing would read, or cannot be meant, is one clear line."""

from __future__ import annotations

from pathlib import Path

import pytest

from stream.commands.options import load_settings
from stream.errors import ConfigError
from stream.settings import Settings


def refused(**flags: object) -> str:
    """The line with which these settings are refused."""
    with pytest.raises(ConfigError) as caught:
        load_settings(**flags)
    line = str(caught.value)
    assert "\n" not in line
    return line


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("VALUESTREAM_EVENT_TOPIC", "did you mean VALUESTREAM_EVENTS_TOPIC?"),
        ("VALUESTREAM_LATENESS", "did you mean VALUESTREAM_LATENESS_S?"),
        ("VALUESTREAM_QQQ", "`valuestream worker --help` lists all settings"),
    ],
)
def test_variable_that_nothing_reads_is_refused(monkeypatch: pytest.MonkeyPatch, name: str, meant: str) -> None:
    monkeypatch.setenv(name, "1")
    assert refused() == f"{name} is set and is no setting, expected one that the service reads; {meant}"


def test_folder_of_real_data_is_no_setting_and_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VALUESTREAM_DATA", "/data")
    load_settings()


@pytest.mark.parametrize("service", ["VALUESTREAM", "VALUESTREAM_WORKER"])
@pytest.mark.parametrize(
    "end",
    [
        *("SERVICE_HOST", "SERVICE_PORT", "SERVICE_PORT_METRICS", "PORT", "PORT_9464_TCP", "PORT_9464_TCP_PROTO"),
        *("PORT_9464_TCP_PORT", "PORT_9464_TCP_ADDR", "PORT_53_UDP"),
    ],
)
def test_variables_that_kubernetes_sets_for_a_service_of_our_name_are_not_ours(
    monkeypatch: pytest.MonkeyPatch, service: str, end: str
) -> None:
    monkeypatch.setenv(f"{service}_{end}", "tcp://10.0.0.7:9464")
    load_settings()


@pytest.mark.parametrize("name", ["VALUESTREAM_METRICS_PORT", "VALUESTREAM_SERVICE", "VALUESTREAM_SCORES_TOPICS"])
def test_variable_that_only_resembles_those_is_refused(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "1")
    assert "is no setting" in refused()


@pytest.fixture
def env_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(Settings.model_config, "env_file", ".env")
    return tmp_path / ".env"


def test_line_of_the_env_file_that_nothing_reads_is_refused(env_file: Path) -> None:
    env_file.write_text("# ours\nVALUESTREAM_APP_ID=shop\nOTHER=1\n", encoding="utf-8")
    assert load_settings().app_id == "shop"
    env_file.write_text("VALUESTREAM_APPID=shop\n", encoding="utf-8")
    assert "did you mean VALUESTREAM_APP_ID?" in refused()


def test_env_file_that_is_not_utf_8_is_refused(env_file: Path) -> None:
    env_file.write_bytes("VALUESTREAM_APP_ID=büro\n".encode("latin-1"))
    assert refused().startswith(".env is not UTF-8, expected")


@pytest.mark.parametrize("value", ["inf", "-inf", "nan", float("inf")])
def test_number_must_be_finite(value: object) -> None:
    assert "lateness_s" in refused(lateness_s=value)
    assert "finite" in refused(lateness_s=value)
    assert "finite" in refused(fx_rates={"EUR": float("nan")})


@pytest.mark.parametrize("name", ["app_id", "events_topic", "scores_topic", "envelope", "http_host"])
@pytest.mark.parametrize("value", ["", "  "])
def test_name_must_be_something(name: str, value: str) -> None:
    assert "expected a name; leave the setting out for its default" in refused(**{name: value})


def test_port_must_be_one() -> None:
    assert "less than or equal to 65535" in refused(http_port=65_536)


def test_alert_must_be_able_to_end() -> None:
    assert "alert_churn_clear is 0.8, expected at most alert_churn_high (0.7)" in refused(alert_churn_clear=0.8)
    load_settings(alert_churn_clear=0.7, alert_churn_high=0.7)


def test_tilde_is_the_home_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert load_settings(data_dir="~/state").data_dir == tmp_path / "state"


def test_variable_that_must_be_json_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VALUESTREAM_FX_RATES", "EUR=1.1")
    assert "fx_rates" in refused()
    assert "expected JSON" in refused()
