"""Tests of the compose files: they name only files, settings and commands that exist."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import click
import pytest

from stream.commands.cli import cli
from stream.settings import Settings
from tests.deploy.files import COMPOSE_FILES, DEPLOY, DOCKERFILES, PROMETHEUS, ROOT, load


def services() -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = load(DEPLOY / "compose.yaml")["services"]
    return found


def ours() -> list[str]:
    return [name for name, service in services().items() if service["image"].startswith("valuestream:")]


@pytest.mark.parametrize("path", sorted([*DEPLOY.rglob("*.y*ml")]), ids=lambda path: path.name)
def test_every_yaml_file_can_be_read(path: Path) -> None:
    assert isinstance(load(path), dict)


def test_every_setting_named_in_deploy_is_a_setting_of_the_service() -> None:
    named = {
        name.lower()
        for path in DEPLOY.rglob("*")
        if path.is_file()
        for name in re.findall(r"\bVALUESTREAM_([A-Z0-9_]+)", path.read_text())
    }
    assert named
    assert named <= set(Settings.model_fields)


def test_compose_builds_from_files_that_exist() -> None:
    for path in COMPOSE_FILES:
        for service in load(path)["services"].values():
            if "build" in service:
                context = (DEPLOY / service["build"]["context"]).resolve()
                assert context == ROOT
                assert context / service["build"]["dockerfile"] in DOCKERFILES


def test_compose_mounts_files_that_exist_and_volumes_that_are_declared() -> None:
    declared = set(load(DEPLOY / "compose.yaml")["volumes"])
    sources = {volume.split(":")[0] for service in services().values() for volume in service.get("volumes", [])}
    assert {source for source in sources if not source.startswith(".")} == declared
    for source in sources - declared:
        assert (DEPLOY / source).is_file()


def test_compose_waits_for_services_that_exist() -> None:
    for service in services().values():
        for other, how in service.get("depends_on", {}).items():
            assert other in services()
            if how["condition"] == "service_healthy":
                assert "test" in services()[other]["healthcheck"]


@pytest.mark.parametrize("name", ours())
def test_compose_sets_only_settings_that_the_service_accepts(name: str) -> None:
    environment = services()[name]["environment"]
    values = {key.removeprefix("VALUESTREAM_").lower(): value for key, value in environment.items()}
    settings = Settings(_env_file=None, **values)
    host, port = settings.bootstrap_servers.split(":")
    assert host in services()
    listeners = services()["kafka"]["environment"]["KAFKA_ADVERTISED_LISTENERS"]
    assert f"://{host}:{port}" in listeners


@pytest.mark.parametrize("name", ours())
def test_compose_runs_commands_and_options_that_exist(name: str) -> None:
    args, command = list(services()[name]["command"]), cli
    assert isinstance(command, click.Command)
    while isinstance(command, click.Group):
        found = command.get_command(click.Context(command), args.pop(0))
        assert found is not None
        command = found
    command.make_context(name, args)


def test_compose_workers_have_state_and_name_of_their_own() -> None:
    workers = [service for name, service in services().items() if name.startswith("worker")]
    assert len(workers) == 2
    assert len({worker["volumes"][0] for worker in workers}) == 2
    assert len({worker["environment"]["VALUESTREAM_INSTANCE_ID"] for worker in workers}) == 2


def test_compose_gives_a_worker_more_time_to_stop_than_the_worker_allows_itself() -> None:
    for name, service in services().items():
        if name.startswith("worker"):
            grace_s = float(service["stop_grace_period"].removesuffix("s"))
            assert grace_s > Settings(_env_file=None).stop_timeout_s


def test_compose_publishes_on_loopback_only() -> None:
    for service in services().values():
        for port in service.get("ports", []):
            assert port.startswith("127.0.0.1:")


def test_prometheus_scrapes_the_workers_of_compose_at_their_port() -> None:
    (job,) = load(PROMETHEUS / "prometheus.yml")["scrape_configs"]
    targets = job["static_configs"][0]["targets"]
    port = Settings(_env_file=None).http_port
    assert targets == [f"{name}:{port}" for name in services() if name.startswith("worker")]
    assert set(re.findall(r'job="([^"]+)"', (PROMETHEUS / "alerts.yml").read_text())) == {job["job_name"]}
