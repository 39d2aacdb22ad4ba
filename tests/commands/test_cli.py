"""An error at the command line ends in one clear line with the next step, and without a traceback."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from stream.commands.broker.processes import free_port
from stream.contract.manifest import MANIFEST_FILE, MODEL_FILE
from stream.score.scorer import DEMO_MODEL
from tests.broker.command import assert_one_line, valuestream


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return Path(shutil.copytree(DEMO_MODEL, tmp_path / "model"))


def test_missing_model_folder_is_one_line(tmp_path: Path) -> None:
    result = valuestream("worker", "--model-dir", str(tmp_path / "none"))
    assert_one_line(result, "no manifest.json", "valuestream-model export")


def test_missing_model_file_is_one_line(model: Path) -> None:
    (model / MODEL_FILE).unlink()
    assert_one_line(valuestream("worker", "--model-dir", str(model)), MODEL_FILE, "missing", "copy the whole folder")


def test_altered_model_file_is_one_line(model: Path) -> None:
    with (model / MODEL_FILE).open("ab") as file:
        file.write(b"!")
    assert_one_line(valuestream("worker", "--model-dir", str(model)), MODEL_FILE, "altered", "SHA-256")


def test_manifest_of_another_feature_version_is_one_line(model: Path) -> None:
    manifest = json.loads((model / MANIFEST_FILE).read_text())
    (model / MANIFEST_FILE).write_text(json.dumps({**manifest, "features_version": 99}))
    result = valuestream("worker", "--model-dir", str(model))
    assert_one_line(result, "features_version is 99", "this build serves", "export the model again")


def test_missing_provider_is_one_line(model: Path) -> None:
    result = valuestream("worker", "--model-dir", str(model), "--provider", "cuda")
    assert_one_line(result, "cuda", "valuestream[gpu]")


def test_unreachable_broker_is_one_line() -> None:
    port = free_port()
    result = valuestream("worker", "--bootstrap-servers", f"127.0.0.1:{port}")
    assert_one_line(result, f"127.0.0.1:{port}", "--bootstrap-servers")


def test_wrong_setting_names_the_setting_and_what_is_allowed() -> None:
    result = valuestream("worker", "--http-port", "-5")
    assert_one_line(result, "http_port", "-5", "greater than or equal to 0", "VALUESTREAM_HTTP_PORT")


def test_unknown_time_zone_is_refused_at_the_start() -> None:
    result = valuestream("worker", "--naive-time-zone", "Mars/Olympus")
    assert_one_line(result, "naive_time_zone", "Mars/Olympus", "expected the IANA name of a time zone")


def test_decimal_comma_is_true_or_false_and_placeholder_ids_are_a_list() -> None:
    result = valuestream("worker", "--placeholder-ids", '{"a": 1}')
    assert_one_line(result, "placeholder_ids", "valid list", "VALUESTREAM_PLACEHOLDER_IDS")
    result = valuestream("worker", VALUESTREAM_DECIMAL_COMMA="maybe")
    assert_one_line(result, "decimal_comma", "maybe", "VALUESTREAM_DECIMAL_COMMA")


def test_setting_comes_from_the_environment_and_a_flag_wins_over_it() -> None:
    result = valuestream("topics", "check", VALUESTREAM_BOOTSTRAP_SERVERS="127.0.0.1:1")
    assert_one_line(result, "127.0.0.1:1")
    result = valuestream("topics", "check", "--bootstrap-servers", "127.0.0.1:2", VALUESTREAM_BOOTSTRAP_SERVERS="x:1")
    assert_one_line(result, "127.0.0.1:2")


def test_data_file_of_the_wrong_shape_is_one_line(tmp_path: Path) -> None:
    file = tmp_path / "events.csv"
    file.write_text("a,b,c\n1,2,3\n")
    result = valuestream("replay", str(file), "--format", "rees46", "--bootstrap-servers", "127.0.0.1:1")
    assert_one_line(result)


@pytest.mark.parametrize("command", ["show", "export", "erase"])
def test_user_id_that_is_not_utf_8_is_refused_before_connecting(command: str) -> None:
    result = valuestream("user", command, b"ann\xff\xc3(", "--bootstrap-servers", "127.0.0.1:1")
    assert_one_line(result, r"user id is 'ann\udcff\udcc3(', expected UTF-8 text")


def test_debug_shows_the_traceback() -> None:
    result = valuestream("--debug", "worker", "--http-port", "-5")
    assert result.returncode == 1
    assert "Traceback" in result.stderr


@pytest.mark.broker
def test_topics_with_different_partition_counts_are_named(make_settings) -> None:
    from kafka import KafkaAdminClient

    settings = make_settings()
    admin = KafkaAdminClient(bootstrap_servers=settings.bootstrap_servers)
    admin.delete_topics([settings.scores_topic])
    admin.create_topics({settings.scores_topic: {"num_partitions": 3, "replication_factor": 1}})
    admin.close()
    environment = {
        f"VALUESTREAM_{name.upper()}": str(getattr(settings, name))
        for name in ("bootstrap_servers", "app_id", "events_topic", "scores_topic", "alerts_topic", "dlq_topic")
    }
    assert_one_line(valuestream("worker", **environment), settings.scores_topic, "3", "4")
