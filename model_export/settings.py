"""Settings: reads all settings of a model from one TOML file: data, labels, snapshots, network, training, evaluation.

Every table and key may be left out; ``valuestream-model config`` prints all of them with their defaults.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from model_export.data.event_log import SIMULATOR, DataConfig
from model_export.data.splits import SnapshotConfig
from model_export.network.event_bert import ModelConfig
from model_export.training.task import FitConfig
from stream.contract.manifest import Labels
from stream.datasets.topic_source import Topic, is_topic
from stream.errors import ConfigError

__all__ = ["EvaluateConfig", "ExportConfig", "RetrainConfig", "Settings", "TextConfig", "as_toml", "read_settings"]


class LabelConfig(Labels, frozen=True, forbid_unknown_fields=True):
    """What is predicted, in days; see :class:`stream.contract.manifest.Labels`."""

    eligible_days: float = 45.0
    churn_days: float = 14.0
    purchase_days: tuple[float, ...] = (7.0, 30.0)
    value_days: float = 30.0


class TextConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Product texts that the event BERT reads at item positions."""

    #: Folder, hub name or package of a text BERT. Empty: the model reads no product texts.
    checkpoint: str = ""
    #: CSV or JSON Lines file with the columns item, category and text. Empty: the names in the events of the data.
    catalogue: str = ""


class EvaluateConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How a model is measured beside the baselines."""

    #: How many test sets. For each the event log ends ``step_days`` earlier than for the one before.
    snapshots: int = 3
    step_days: float = 14.0
    #: Each network and tree model is trained once for each of these seeds; metrics are averaged over the seeds.
    seeds: tuple[int, ...] = (7, 8, 9)
    #: How often users are drawn for the 95 % intervals.
    resamples: int = 300
    #: Also measure how much each part of the network is worth, with the first seed.
    ablations: bool = False


class ExportConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the model folder holds beside the network."""

    #: Churn probabilities at which the medium and the high band begin.
    medium: float = 0.4
    high: float = 0.7
    #: Users with fewer events get data_sufficiency "low", and the calibration made for such users.
    sufficient_events: int = 5


class RetrainConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """When a challenger takes the champion's place."""

    #: How much the mean log-loss of all probability heads must fall at least, in nats.
    margin: float = 0.0005
    #: For how many epochs training goes on from the champion's weights.
    epochs: int = 2


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All settings of a model. Relative paths start at the working directory."""

    #: Name of the model in every score.
    name: str = "event-bert"
    #: On a CPU the same seed gives the same weights.
    seed: int = 7
    data: DataConfig = DataConfig()
    labels: LabelConfig = LabelConfig()
    snapshots: SnapshotConfig = SnapshotConfig()
    model: ModelConfig = ModelConfig()
    text: TextConfig = TextConfig()
    #: A larger network. It is trained first, and this one learns from its probabilities.
    teacher: ModelConfig | None = None
    fit: FitConfig = FitConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    export: ExportConfig = ExportConfig()
    retrain: RetrainConfig = RetrainConfig()

    @property
    def portable(self) -> Settings:
        """The same settings without the folders of this machine; a model records these as how it was made."""
        replace, data, text = msgspec.structs.replace, self.data, self.text
        return replace(
            self,
            data=replace(data, source=data.name, groups=Path(data.groups).name, sentiment=Path(data.sentiment).name),
            text=replace(text, checkpoint=Path(text.checkpoint).name, catalogue=Path(text.catalogue).name),
        )


def read_settings(path: Path | None, overrides: Sequence[str] = ()) -> Settings:
    """Read a TOML file, then set ``table.key=value`` pairs. Without a file all settings have their defaults.

    Raises ConfigError that names the key if a key is unknown, if its value has the wrong type, or if values contradict
    each other.
    """
    tree: dict[str, Any] = {}
    if path is not None:
        try:
            tree = msgspec.toml.decode(path.read_bytes())
        except OSError as error:
            raise ConfigError(f"settings {path} cannot be read ({error.strerror}); give a TOML file") from None
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise ConfigError(f"settings {path} is not TOML: {error}") from None
    for pair in overrides:
        _set(tree, pair)
    try:
        settings = msgspec.convert(tree, Settings, strict=True)
    except msgspec.ValidationError as error:
        raise ConfigError(f"settings {path or 'given'}: {error}; `valuestream-model config` prints all keys") from None
    _check(settings)
    return settings


def as_toml(settings: Settings) -> str:
    """Write all settings as TOML that :func:`read_settings` reads back. What is not set is left out."""
    return msgspec.toml.encode(_without_none(msgspec.to_builtins(settings))).decode()


def _without_none(tree: dict[str, Any]) -> dict[str, Any]:
    return {
        key: _without_none(value) if isinstance(value, dict) else value
        for key, value in tree.items()
        if value is not None
    }


def _set(tree: dict[str, Any], pair: str) -> None:
    name, equals, value = pair.partition("=")
    *tables, key = name.strip().split(".")
    if not equals or not key:
        raise ConfigError(f"found --set {pair!r}, expected table.key=value, such as fit.epochs=5")
    for table in tables:
        tree = tree.setdefault(table, {})
        if not isinstance(tree, dict):
            raise ConfigError(f"found --set {pair!r}, but {table} is a value, expected a table")
    try:
        tree[key] = msgspec.toml.decode(f"value = {value}")["value"]
    except msgspec.DecodeError:
        tree[key] = value.strip()


def _check(settings: Settings) -> None:
    """Raise ConfigError if values are out of range or contradict each other."""
    _check_labels(settings.labels)
    _check_source(settings.data.source)
    _check_network("model", settings.model)
    if settings.teacher is not None:
        _check_network("teacher", settings.teacher)
    export = settings.export
    _expect(0 < export.medium < export.high < 1, "export.medium", f"less than high {export.high:g}", export.medium)
    _expect(bool(settings.evaluate.seeds), "evaluate.seeds", "at least one seed", list(settings.evaluate.seeds))
    for name, number in _numbers(settings):
        _expect(number >= 0, name, "0 or more", number)
    _check_privacy(settings)
    positive = {"fit.batch_size": settings.fit.batch_size, "fit.epochs": settings.fit.epochs,
                "fit.threads": settings.fit.threads, "snapshots.every_days": settings.snapshots.every_days,
                "evaluate.snapshots": settings.evaluate.snapshots}  # fmt: skip
    for name, number in positive.items():
        _expect(number > 0, name, "more than 0", number)


def _check_labels(labels: LabelConfig) -> None:
    days = (labels.eligible_days, labels.churn_days, labels.value_days, *labels.purchase_days)
    _expect(bool(labels.purchase_days) and min(days) > 0, "labels", "days above 0", days)
    _expect(
        tuple(sorted(set(labels.purchase_days))) == labels.purchase_days,
        "labels.purchase_days",
        "rising horizons, each once",
        labels.purchase_days,
    )
    _expect(
        labels.value_days in labels.purchase_days,
        "labels.value_days",
        f"one of purchase_days {labels.purchase_days}: its probability is that of any value at all",
        labels.value_days,
    )


def _check_source(source: str) -> None:
    if is_topic(source):
        Topic.parse(source)
    elif source != SIMULATOR:
        expected = "a file of events, kafka://host:port/topic or simulator"
        _expect(Path(source).is_file(), "data.source", expected, source)


def _check_network(name: str, network: ModelConfig) -> None:
    _expect(network.heads > 0, f"{name}.heads", "more than 0", network.heads)
    _expect(network.hidden % network.heads == 0, f"{name}.hidden", f"a multiple of {network.heads}", network.hidden)
    _expect(network.dropout < 1, f"{name}.dropout", "less than 1", network.dropout)


def _check_privacy(settings: Settings) -> None:
    """Raise ConfigError if there is a privacy budget and something would be learned from users without noise."""
    fit = settings.fit
    if not fit.dp_epsilon:
        return
    _expect(0 < fit.dp_delta < 1, "fit.dp_delta", "more than 0 and less than 1", fit.dp_delta)
    _expect(fit.dp_clip > 0, "fit.dp_clip", "more than 0", fit.dp_clip)
    _expect(settings.teacher is None, "teacher", "none with fit.dp_epsilon: it is trained without noise", "given")
    _expect(not fit.pretrain_epochs, "fit.pretrain_epochs", "0 with fit.dp_epsilon", fit.pretrain_epochs)
    _expect(not fit.class_weights, "fit.class_weights", "false with fit.dp_epsilon", fit.class_weights)


def _numbers(settings: Settings) -> list[tuple[str, float]]:
    """Dotted name and value of every number in a table."""
    tree: Mapping[str, Any] = msgspec.to_builtins(settings)
    tables = [(name, table) for name, table in tree.items() if isinstance(table, dict)]
    return [(f"{t}.{k}", v) for t, table in tables for k, v in table.items() if isinstance(v, int | float)]


def _expect(holds: bool, name: str, expected: str, found: Any) -> None:
    if not holds:
        raise ConfigError(f"{name} is {found!r}, expected {expected}; set it in the settings file")
