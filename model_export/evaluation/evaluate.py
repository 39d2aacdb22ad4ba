"""Evaluate: runs an evaluation. Every candidate is trained, calibrated and scored on the same users and test sets.

``evaluation_folder.py`` says which files it leaves behind, ``measure_scores.py`` turns the scores into metrics.
"""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Final, TypeAlias

import msgspec
import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.progress import Progress

from model_export.data import dataset
from model_export.data import event_log as history
from model_export.data.dataset import Dataset
from model_export.data.event_log import DataConfig, EventLog, fingerprint
from model_export.data.examples import Examples
from model_export.data.labels import head_names
from model_export.data.prepare import check_enough
from model_export.evaluation.candidates import ABLATIONS, CANDIDATES, SEEDED, Candidates
from model_export.evaluation.evaluation_folder import METRICS_FILE, Evaluation, ScoredExamples, save_arrays
from model_export.evaluation.measure_scores import measure_scores
from model_export.settings import Settings
from model_export.training.model import products_of
from stream.contract.columns import DAY_S
from stream.errors import ConfigError

__all__ = ["evaluate"]

#: Index of the group of each user.
Groups: TypeAlias = npt.NDArray[np.int32]
_SETTINGS_FILE: Final = "settings.json"


def evaluate(settings: Settings, folder: Path, console: Console) -> Evaluation:
    """Score what ``folder`` does not hold yet, measure all scores, and write metrics.json.

    Raises ConfigError if the data is too short, or has too few examples of a label.
    """
    portable = _claim(settings, folder)
    log = history.load(settings.data)
    group_names, group = _groups(settings.data, log)
    products = products_of(settings)
    models = {**CANDIDATES, **(ABLATIONS if settings.evaluate.ablations else {})}
    if products is None:
        models.pop("fused_without_text", None)
    left_out: dict[str, int] = {}
    with Progress(console=console, transient=True) as progress:
        for k, (known, examples) in enumerate(_test_sets(settings, log)):
            left_out.update({f"snapshot {k}, {reason}": n for reason, n in sorted(examples.left_out.items())})
            save_arrays(folder / f"{k}.safetensors", _scored(examples.test, group))
            candidates = Candidates(settings, known, examples, progress, products)
            for model, score in models.items():
                for seed in settings.evaluate.seeds if model in SEEDED else settings.evaluate.seeds[:1]:
                    path = folder / f"{k}-{model}-{seed}.safetensors"
                    if not path.is_file():
                        console.print(f"snapshot {k + 1} of {settings.evaluate.snapshots}: {model}, seed {seed}")
                        save_arrays(path, score(candidates, seed))
    console.print(f"measuring, {settings.evaluate.resamples} resamples")
    evaluation = measure_scores(portable, folder, list(models), groups=group_names, left_out=left_out)
    (folder / METRICS_FILE).write_bytes(msgspec.json.format(msgspec.json.encode(evaluation), indent=1) + b"\n")
    return evaluation


def _claim(settings: Settings, folder: Path) -> Settings:
    """Claim the folder for these settings and this data, and remove scores that were made with others.

    Returns the settings without the paths of this machine.
    """
    digest = hashlib.sha256(fingerprint(settings.data)).hexdigest()
    claim = msgspec.json.encode({"settings": settings.portable, "data_sha256": digest})
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / _SETTINGS_FILE
    if not path.is_file() or path.read_bytes() != claim:
        for old in folder.glob("*.safetensors"):
            old.unlink()
        path.write_bytes(claim)
    return settings.portable


def _test_sets(settings: Settings, log: EventLog) -> Iterator[tuple[EventLog, Dataset]]:
    """Yield the event log as known at its end, one step earlier, and so on, each with its examples at snapshots."""
    for k in range(settings.evaluate.snapshots):
        known = log.until(log.span[1] - round(k * settings.evaluate.step_days * DAY_S))
        examples = dataset.build(known, settings.labels, settings.snapshots, settings.seed)
        check_enough(examples, head_names(settings.labels), settings.fit.class_min)
        yield known, examples.of_kind(at_event=False)


def _scored(test: Examples, group: Groups) -> ScoredExamples:
    return ScoredExamples(test.user, test.as_of, test.outcomes, test.value, test.features, group[test.user])


def _groups(data: DataConfig, log: EventLog) -> tuple[list[str], Groups]:
    """Read ``data.groups``: names of the groups, "" first, and for every user ``(users,)`` the index of its group."""
    if not data.groups:
        return [""], np.zeros(len(log.names), np.int32)
    path = Path(data.groups)
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = [row for row in csv.reader(file) if row]
    except OSError as error:
        raise ConfigError(f"data.groups {path} cannot be read ({error.strerror}); give a CSV of user, group") from None
    wrong = next((i for i, row in enumerate(rows, start=1) if len(row) != 2), None)
    if wrong:
        raise ConfigError(f"data.groups {path}: row {wrong} has not two columns, expected user, group")
    group_of = dict(rows)
    names = ["", *sorted(set(group_of.values()) - {""})]
    index = {name: i for i, name in enumerate(names)}
    return names, np.array([index[group_of.get(user, "")] for user in log.names], np.int32)
