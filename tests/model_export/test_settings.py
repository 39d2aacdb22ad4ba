"""Settings: an error names the key in one line, and what is written is read back as it was."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

import model_export
from model_export.data.event_log import SIMULATOR
from model_export.network.event_bert import ModelConfig
from model_export.settings import Settings, as_toml, read_settings
from stream.datasets.formats import FORMATS
from stream.errors import ConfigError
from tests.model_export.small import SHOP

RECIPES = sorted((Path(model_export.__file__).parent / "recipes").glob("*.toml"))


def written(folder: Path, text: str) -> Path:
    path = folder / "shop.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_no_file_and_an_empty_file_are_all_defaults(tmp_path: Path) -> None:
    assert read_settings(None) == read_settings(written(tmp_path, "")) == Settings()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('nme = "x"', "unknown field `nme`"),
        ("[fit]\nepoch = 3", "unknown field `epoch` - at `$.fit`"),
        ("[plan]\nevery_days = 3", "unknown field `plan`"),
        ("[model]\nvalue_weight = 1.0", "unknown field `value_weight` - at `$.model`"),
        ("[teacher]\nsize = 3", "unknown field `size` - at `$.teacher`"),
        ('[fit]\nepochs = "3"', "Expected `int`, got `str` - at `$.fit.epochs`"),
        ("[fit]\nepochs = 2.5", "Expected `int`, got `float` - at `$.fit.epochs`"),
        ("[data]\nsource = 3", "Expected `str`, got `int` - at `$.data.source`"),
        ("[evaluate]\nseeds = 7", "Expected `array`, got `int` - at `$.evaluate.seeds`"),
        ("fit = 3", "Expected `object`, got `int` - at `$.fit`"),
        ("fit = [", "is not TOML"),
        ("[fit]\nepochs = 1\nepochs = 2", "is not TOML"),
    ],
)
def test_unknown_key_or_wrong_type_is_refused_with_the_name_of_the_key(text: str, message: str, tmp_path: Path) -> None:
    path = written(tmp_path, text)
    with pytest.raises(ConfigError, match=r"shop\.toml") as refused:
        read_settings(path)
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("key", ["split", "shuffle", "test_share", "random_seed"])
def test_random_split_cannot_be_asked_for(key: str, tmp_path: Path) -> None:
    path = written(tmp_path, f'[snapshots]\n{key} = "random"')
    with pytest.raises(ConfigError, match=rf"unknown field `{key}` - at `\$\.snapshots`"):
        read_settings(path)


LABELS = "labels.eligible_days=45", "labels.churn_days=14", "labels.purchase_days=[7, 30]", "labels.value_days=30"


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        (["labels.value_days=9"], r"labels.value_days is 9.0, expected one of purchase_days \(7.0, 30.0\)"),
        (["labels.purchase_days=[30, 7]"], r"labels.purchase_days is \(30.0, 7.0\), expected rising horizons"),
        (["labels.purchase_days=[30, 30]"], r"labels.purchase_days is \(30.0, 30.0\), expected rising horizons"),
        (["labels.purchase_days=[]"], "labels is .*, expected days above 0"),
        (["labels.churn_days=0"], "labels is .*, expected days above 0"),
        (["labels.purchase_days=[-7, 30]"], "labels is .*, expected days above 0"),
        (["data.source=missing.csv"], "data.source is 'missing.csv', expected a file of events, kafka://"),
        (["model.hidden=30"], "model.hidden is 30, expected a multiple of 4"),
        (["teacher.hidden=65"], "teacher.hidden is 65, expected a multiple of 4"),
        (["export.medium=0.8"], "export.medium is 0.8, expected less than high 0.7"),
        (["fit.clip_norm=-1"], "fit.clip_norm is -1.0, expected 0 or more"),
        (["snapshots.window_days=-1"], "snapshots.window_days is -1.0, expected 0 or more"),
        (["fit.batch_size=0"], "fit.batch_size is 0, expected more than 0"),
        (["fit.epochs=0"], "fit.epochs is 0, expected more than 0"),
        (["snapshots.every_days=0"], "snapshots.every_days is 0.0, expected more than 0"),
        (["evaluate.snapshots=0"], "evaluate.snapshots is 0, expected more than 0"),
    ],
)
def test_contradicting_values_are_refused_with_what_was_found_and_expected(pairs: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as refused:
        read_settings(None, [*LABELS, *pairs])
    assert "\n" not in str(refused.value)


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none.toml cannot be read \(No such file or directory\); give a TOML file"):
        read_settings(tmp_path / "none.toml")


def test_overrides_win_over_the_file_and_the_last_override_wins(tmp_path: Path) -> None:
    path = written(tmp_path, "[fit]\nepochs = 4\npatience = 1\n")
    settings = read_settings(path, ["fit.epochs=5", "fit.epochs=6", "name=my shop", "evaluate.seeds=[1, 2]"])
    assert (settings.fit.epochs, settings.fit.patience) == (6, 1)
    assert settings.name == "my shop"
    assert settings.evaluate.seeds == (1, 2)
    assert settings.snapshots == Settings().snapshots


@pytest.mark.parametrize(
    ("pair", "message"),
    [
        ("fit", "found --set 'fit', expected table.key=value, such as fit.epochs=5"),
        ("=5", "found --set '=5', expected table.key=value"),
        ("fit.epochs=many", "Expected `int`, got `str` - at `$.fit.epochs`"),
        ("fit.epoch=5", "unknown field `epoch` - at `$.fit`"),
        ("seed.x=5", "but seed is a value, expected a table"),
    ],
)
def test_impossible_override_is_refused_in_one_line(pair: str, message: str, tmp_path: Path) -> None:
    path = written(tmp_path, "seed = 3")
    with pytest.raises(ConfigError) as refused:
        read_settings(path, [pair])
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "settings",
    [
        Settings(),
        SHOP,
        Settings(name='a "quoted" \\ näme\n', teacher=ModelConfig(hidden=128, use_time=False)),
        msgspec.structs.replace(SHOP, fit=msgspec.structs.replace(SHOP.fit, learning_rate=1e-7, weight_decay=0.0)),
    ],
)
def test_settings_written_as_toml_are_read_back_as_they_were(settings: Settings, tmp_path: Path) -> None:
    assert read_settings(written(tmp_path, as_toml(settings))) == settings


def test_there_are_recipes() -> None:
    assert {"cdnow", "tmall", "uci"} <= {path.stem for path in RECIPES}


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_is_read_and_names_the_data_of_its_format(recipe: Path, tmp_path: Path) -> None:
    data = tmp_path / "events"
    data.write_bytes(b"")
    settings = read_settings(recipe, [f"data.source='{data}'"])
    plain = msgspec.toml.decode(recipe.read_bytes())
    assert settings.name
    assert settings.evaluate.snapshots >= 3
    assert len(settings.evaluate.seeds) >= 3
    if plain["data"].get("source", SIMULATOR) != SIMULATOR:
        assert settings.data.format == plain["data"]["format"] in FORMATS
        # A recipe gives the name of the file only; the user says in which folder it is.
        assert "/" not in plain["data"]["source"]
