"""Train: a data set → a run folder: read, replay, fit, calibrate, and measure on the test window."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.progress import Progress

from model_export import dataset, history
from model_export.calibrate import calibrate
from model_export.dataset import Dataset, Examples, Plan
from model_export.evaluate import baselines, evaluate, head_names
from model_export.fit import Fitted, fit
from model_export.model import EventBert
from model_export.run import FitConfig, Run, Sample, predict, save_run
from model_export.settings import Settings
from stream.contract.manifest import Calibration
from stream.contract.tokens import CHANNELS
from stream.errors import ConfigError
from stream.score import RawScores

__all__ = ["train"]

Array = npt.NDArray[Any]
_SAMPLE_ROWS: Final = 256
_TYPE: Final = CHANNELS.index("type")


def train(out: Path, name: str, settings: Settings, console: Console) -> Run:
    """Read, replay, fit, calibrate, measure and write the run folder ``out``."""
    data, plan, config = settings.data, settings.plan, settings.fit
    console.print(f"reading {data.name}")
    log = history.load(data)
    console.print(f"replaying {len(log):,} events of {len(log.names):,} users")
    examples = dataset.build(log, plan)
    _check_enough(examples, plan, config)
    sizes = [len(part) for part in (examples.train, examples.validation, examples.test)]
    console.print("training on {:,} examples, {:,} for validation, {:,} for the test".format(*sizes))
    with Progress(console=console, transient=True) as progress:
        fitted = fit(examples, settings.model, config, progress)
    if not fitted.best_epoch:
        console.print("the linear start was best: the network adds nothing here; logistic regression would do")
    calibration = calibrate(_run(fitted.network, examples.validation), examples.validation, plan.labels)
    run = Run(
        name=name,
        data=msgspec.structs.replace(data, source=data.name),
        plan=plan,
        model=settings.model,
        fit=config,
        calibration=calibration,
        trained_on=(_iso(examples.span[0]), _iso(examples.span[1])),
        counts=_counts(examples, log.dropped, fitted),
        metrics=_measure(examples, _run(fitted.network, examples.test), calibration, plan),
    )
    save_run(out, run, fitted.network, _sample(examples.test, config.seed))
    return run


def _run(network: EventBert, examples: Examples) -> RawScores:
    return predict(network, examples.tokens, examples.features)


def _measure(examples: Dataset, test: RawScores, calibration: Calibration, plan: Plan) -> dict[str, dict[str, float]]:
    """The model and the baselines on the same snapshots of the test window; the model at events, too."""
    out: dict[str, dict[str, float]] = {}
    for suffix, at_event in (("", False), ("_at_events", True)):
        rows = np.flatnonzero(examples.test.at_event == at_event)
        if len(rows):
            raw = RawScores(test.churn[rows], test.purchase[rows], test.value[rows])
            out[f"event_bert{suffix}"] = evaluate(raw, examples.test.take(rows), calibration, plan.labels)
            out.update({f"{k}{suffix}": v for k, v in baselines(examples, at_event, plan.labels).items()})
    return out


def _check_enough(examples: Dataset, plan: Plan, config: FitConfig) -> None:
    """Each head needs examples of both classes in each window."""
    for window in ("train", "validation", "test"):
        part: Examples = getattr(examples, window)
        for h, head in enumerate(head_names(plan.labels)):
            y = part.churn if h == 0 else part.purchase[:, h - 1]
            for answer, found in (("yes", int((y > 0).sum())), ("no", int((y == 0).sum()))):
                if found < config.class_min:
                    raise ConfigError(
                        f"{window} window has {found} examples with {head} = {answer}, expected at least "
                        f"{config.class_min}; give more users or days, or other horizons"
                    )


def _counts(examples: Dataset, dropped: Counter[str], fitted: Fitted) -> dict[str, int]:
    out = {window: len(getattr(examples, window)) for window in ("train", "validation", "test")}
    out.update({f"left out: {reason}": n for reason, n in sorted(examples.left_out.items())})
    out.update({f"dropped events: {reason}": n for reason, n in sorted(dropped.items())})
    return {**out, "users": len(examples.names), "epochs": fitted.epochs, "best epoch": fitted.best_epoch}


def _sample(test: Examples, seed: int) -> Sample:
    """Rows of the test window spread over all history lengths."""
    rng = np.random.default_rng(seed)
    rows = rng.permutation(len(test))[: 16 * _SAMPLE_ROWS]
    lengths = (test.tokens[rows, :, _TYPE] > 0).sum(axis=1)
    rows = rows[np.argsort(lengths, kind="stable")]
    rows = rows[np.linspace(0, len(rows) - 1, min(_SAMPLE_ROWS, len(rows))).astype(int)]
    return Sample(np.ascontiguousarray(test.tokens[rows]), np.ascontiguousarray(test.features[rows]))


def _iso(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
