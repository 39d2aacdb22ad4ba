"""Files: where the deploy files are, and how to read them."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import yaml

__all__ = ["COMPOSE_FILES", "DEPLOY", "DOCKERFILES", "PATH", "PROMETHEUS", "ROOT", "load"]

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
PROMETHEUS = DEPLOY / "prometheus"
DOCKERFILES = sorted((DEPLOY / "docker").glob("Dockerfile.*pu"))
COMPOSE_FILES = sorted(DEPLOY.glob("compose*.yaml"))
#: Command-line tools of the environment that runs the tests come first.
PATH = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"


def load(path: Path) -> Any:
    return yaml.safe_load(path.read_text())
