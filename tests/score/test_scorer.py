"""Scorer: a user scores the same to the bit in any batch, and a model folder that is not what it claims is refused."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream.contract.columns import HISTORY_LEN
from stream.contract.manifest import GOLDEN_FILE, MANIFEST_FILE, MODEL_FILE
from stream.contract.tokens import CHANNELS, FEATURES_VERSION, LENGTHS
from stream.errors import ConfigError, ContractError, ScoringError
from stream.score.encode import encode
from stream.score.features import features
from stream.score.scorer import DEMO_MODEL, RawScores, Scorer
from stream.score.session import open_session
from tests.score.test_encode import event, fold_users
from tests.state.test_partition_state import DAY, START

N = 60


@pytest.fixture(scope="module")
def scorer() -> Scorer:
    return Scorer(DEMO_MODEL)


@pytest.fixture(scope="module")
def users() -> tuple[np.ndarray, np.ndarray]:
    """Tokens and features of users with histories of every length class."""
    rng = np.random.default_rng(11)
    lengths = np.resize([1, 2, 7, 8, 9, 16, 17, 31, 33, 64, 90], N)
    histories = [
        [
            event(START + int(t), *(int(x) for x in (kind, value, category, item)))
            for t, kind, value, category, item in zip(
                np.sort(rng.integers(0, 40 * DAY, n)),
                rng.integers(1, 10, n),
                rng.integers(-5_000, 50_000, n),
                rng.integers(0, 65_536, n),
                rng.integers(0, 65_536, n),
                strict=True,
            )
        ]
        for n in lengths
    ]
    snapshot = fold_users(*histories).snapshot(np.arange(N))
    as_of = snapshot.users["last_time"].astype(np.int64) + rng.choice([0, 1, 7, 30], N) * DAY
    return encode(snapshot, as_of), features(snapshot, as_of)


def columns(raw: RawScores) -> np.ndarray:
    return np.column_stack((raw.churn, raw.purchase, raw.value, raw.category))


@pytest.fixture(scope="module")
def together(scorer: Scorer, users: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    return columns(scorer.run(*users))


# Alone and in a batch ---------------------------------------------------------------------------------


def test_row_scores_same_alone_and_in_batch(
    scorer: Scorer, users: tuple[np.ndarray, np.ndarray], together: np.ndarray
) -> None:
    tokens, numbers = users
    for i in range(N):
        assert columns(scorer.run(tokens[i : i + 1], numbers[i : i + 1])).tobytes() == together[i].tobytes()


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, N - 1), min_size=1, max_size=40))
def test_row_scores_same_in_any_batch(
    scorer: Scorer, users: tuple[np.ndarray, np.ndarray], together: np.ndarray, rows: list[int]
) -> None:
    tokens, numbers = users
    assert columns(scorer.run(tokens[rows], numbers[rows])).tobytes() == together[rows].tobytes()


@dataclass
class Watched:
    """A session that notes how many rows it gets. If ``careless``, rows beyond a multiple of four score differently."""

    session: Any
    careless: bool = False
    rows: list[int] = field(default_factory=list)

    def run(self, names: list[str], inputs: dict[str, np.ndarray]) -> Any:
        n = len(inputs["tokens"])
        self.rows.append(n)
        outputs = self.session.run(names, inputs)
        if self.careless:
            for output in outputs:
                output[n - n % 4 :] += np.float32(1e-6)
        return outputs


def test_shipped_model_is_run_for_no_more_rows_than_there_are_users(
    scorer: Scorer, users: tuple[np.ndarray, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    watched = Watched(scorer._session)
    monkeypatch.setattr(scorer, "_session", watched)
    for n in (1, 3, N):
        watched.rows.clear()
        scorer.run(users[0][:n], users[1][:n])
        assert sum(watched.rows) == n


def test_kernels_that_add_up_a_remainder_of_rows_in_another_order_never_get_one(
    users: tuple[np.ndarray, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    sessions = []

    def careless(*args: Any) -> Watched:
        sessions.append(Watched(open_session(*args), careless=True))
        return sessions[-1]

    monkeypatch.setattr("stream.score.scorer.open_session", careless)
    scorer, (tokens, numbers) = Scorer(DEMO_MODEL), users
    sessions[0].rows.clear()
    together = scorer.run(tokens, numbers).columns
    for n in (1, 3, 5, 9):
        assert scorer.run(tokens[:n], numbers[:n]).columns.tobytes() == together[:n].tobytes()
    assert all(rows % 8 == 0 for rows in sessions[0].rows)


@pytest.mark.parametrize("length", LENGTHS)
def test_padding_does_not_change_the_scores_of_a_row(
    scorer: Scorer, users: tuple[np.ndarray, np.ndarray], together: np.ndarray, length: int
) -> None:
    tokens, numbers = users
    rows = np.flatnonzero((tokens[:, :, CHANNELS.index("type")] > 0).sum(axis=1) <= length)
    rows = rows[: len(rows) // 8 * 8]
    padded = scorer._session.run(
        None, {"tokens": np.ascontiguousarray(tokens[rows, :length]), "features": numbers[rows]}
    )
    # Serving pads a row by its own length alone. So between paddings only rounding may differ.
    assert np.abs(np.column_stack(padded) - together[rows]).max() <= 1e-6


def test_threads_do_not_change_a_score(users: tuple[np.ndarray, np.ndarray], together: np.ndarray) -> None:
    assert columns(Scorer(DEMO_MODEL, threads=2).run(*users)).tobytes() == together.tobytes()


def test_scores_of_a_row_depend_on_every_input(scorer: Scorer, users: tuple[np.ndarray, np.ndarray]) -> None:
    tokens, numbers = users[0][:8], users[1][:8]
    before = columns(scorer.run(tokens, numbers))
    older = tokens.copy()
    older[..., CHANNELS.index("age")] += tokens[..., CHANNELS.index("type")] > 0
    assert (columns(scorer.run(older, numbers)) != before).any(axis=1).all()
    assert (columns(scorer.run(tokens, numbers + 1)) != before).any(axis=1).all()


def test_shapes_are_those_of_the_manifest_also_for_no_users(
    scorer: Scorer, users: tuple[np.ndarray, np.ndarray]
) -> None:
    for n in (0, 1, N):
        raw = scorer.run(users[0][:n], users[1][:n])
        assert (raw.churn.shape, raw.value.shape) == ((n,), (n, 2))
        assert raw.purchase.shape == (n, len(scorer.manifest.labels.purchase_days))
        assert raw.category.shape == (n, len(scorer.manifest.categories))
        assert raw.n_positions >= (users[0][:n, :, 0] > 0).sum()


def test_groups_that_were_run_together_are_split_as_they_were_joined(together: np.ndarray) -> None:
    outputs = together.astype(np.float32)
    raw = RawScores(outputs[:, 0], outputs[:, 1:3], outputs[:, 3:5], outputs[:, 3:])
    parts = raw.split([2, 0, N - 2])
    assert [len(part.churn) for part in parts] == [2, 0, N - 2]
    for name in ("churn", "purchase", "value", "category"):
        assert np.array_equal(np.concatenate([getattr(part, name) for part in parts]), getattr(raw, name))
    without = RawScores(raw.churn, raw.purchase, raw.value).split([1, N - 1])
    assert [part.category.shape[1] for part in without] == [0, 0]


def test_model_that_cannot_run_or_gives_nan_is_retriable(scorer: Scorer, users: tuple[np.ndarray, np.ndarray]) -> None:
    tokens, numbers = users[0][:3], users[1][:3]
    with pytest.raises(ScoringError, match="the model gave NaN or infinity, expected finite numbers"):
        scorer.run(tokens, np.full_like(numbers, np.nan))
    with pytest.raises(ScoringError, match="could not be run"):
        scorer.run(tokens, numbers[:, :5])


# The model folder -------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the shipped model that a test may spoil."""
    return Path(shutil.copytree(DEMO_MODEL, tmp_path / "model"))


def rewrite(folder: Path, change: Callable[[dict[str, Any]], object] = lambda manifest: None) -> None:
    """Change the manifest and list the files with their hashes of now, as a faulty exporter would."""
    path = folder / MANIFEST_FILE
    manifest = json.loads(path.read_bytes())
    manifest["files"] = {n: hashlib.sha256((folder / n).read_bytes()).hexdigest() for n in manifest["files"]}
    change(manifest)
    path.write_text(json.dumps(manifest), encoding="utf-8")


def golden(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / GOLDEN_FILE).read_bytes().splitlines()]


def put_golden(folder: Path, cases: list[dict[str, Any]]) -> None:
    (folder / GOLDEN_FILE).write_text("".join(json.dumps(c) + "\n" for c in cases), encoding="utf-8")
    rewrite(folder)


def test_copy_serves_as_the_shipped_model_does(folder: Path, scorer: Scorer) -> None:
    assert Scorer(folder).sha256 == scorer.sha256
    rewrite(folder, lambda m: m.update(version="other"))
    assert Scorer(folder).sha256 != scorer.sha256


def test_output_that_differs_from_the_golden_cases_is_refused(folder: Path) -> None:
    cases = golden(folder)
    cases[-1]["value"][1] += 2e-4
    put_golden(folder, cases)
    with pytest.raises(ContractError, match=r"golden.jsonl: outputs differ from the golden cases by 2.0e-04, expected"):
        Scorer(folder)
    cases[-1]["value"][1] -= 1.9e-4
    put_golden(folder, cases)
    Scorer(folder)


def test_golden_file_without_a_case_is_refused(folder: Path) -> None:
    put_golden(folder, [])
    with pytest.raises(ContractError, match=r"golden.jsonl holds no golden case; export the model again"):
        Scorer(folder)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda case: case.pop("churn"),
        lambda case: case["tokens"].extend([[1] * len(CHANNELS)] * HISTORY_LEN),
        lambda case: case["tokens"][0].pop(),
        lambda case: case["features"].pop(),
        lambda case: case["purchase"].append(0.0),
        lambda case: case.update(tokens="none"),
    ],
    ids=["no churn", "too many events", "a channel short", "a feature short", "a horizon more", "no tokens"],
)
def test_golden_case_of_another_shape_is_refused(folder: Path, spoil: Callable[[dict[str, Any]], object]) -> None:
    cases = golden(folder)
    spoil(cases[1])
    put_golden(folder, cases)
    with pytest.raises(ContractError, match=r"golden.jsonl cannot be read: .*; export the model again"):
        Scorer(folder)


def test_variant_that_the_folder_lacks_is_refused_and_its_variants_are_named(folder: Path) -> None:
    rewrite(folder, lambda m: m.update(variants={"fp32": MODEL_FILE}))
    with pytest.raises(ConfigError, match=r"has no variant 'int8', it has fp32; choose one of them or export"):
        Scorer(folder, variant="int8")


def test_variant_without_golden_cases_of_its_own_is_refused(folder: Path) -> None:
    def change(manifest: dict[str, Any]) -> None:
        manifest["variants"]["int8"] = MODEL_FILE
        manifest["files"].pop("golden.int8.jsonl", None)

    rewrite(folder, change)
    with pytest.raises(ContractError, match=r"does not list golden.int8.jsonl; export the model again"):
        Scorer(folder, variant="int8")


@pytest.mark.parametrize(("variant", "tolerance"), [("int8", 1e-1), ("fp16", 1e-2)])
def test_variant_is_held_to_its_own_golden_cases_and_tolerance(folder: Path, variant: str, tolerance: float) -> None:
    name = f"golden.{variant}.jsonl"
    rewrite(folder, lambda m: m["variants"].update({variant: MODEL_FILE}))
    cases = golden(folder)
    before = cases[-1]["churn"]
    for factor in (0.9, 1.1):
        cases[-1]["churn"] = before + factor * tolerance
        (folder / name).write_text("".join(json.dumps(c) + "\n" for c in cases), encoding="utf-8")
        rewrite(folder, lambda m: m["files"].update({name: hashlib.sha256((folder / name).read_bytes()).hexdigest()}))
        if factor < 1:
            assert Scorer(folder, variant=variant).variant == variant
    with pytest.raises(ContractError, match=rf"{name}: outputs differ from the golden cases by"):
        Scorer(folder, variant=variant)


def test_golden_cases_of_another_number_of_outputs_are_refused(folder: Path) -> None:
    cases = golden(folder)
    for case in cases:
        case["category"] = [*case.get("category", []), 0.0]
    put_golden(folder, cases)
    with pytest.raises(ContractError, match=r"the model has \d+ outputs, the golden cases \d+; export the model again"):
        Scorer(folder)


@pytest.mark.parametrize("name", [MODEL_FILE, GOLDEN_FILE])
def test_altered_file_is_refused_by_name(folder: Path, name: str) -> None:
    data = bytearray((folder / name).read_bytes())
    data[len(data) // 2] ^= 1
    (folder / name).write_bytes(data)
    with pytest.raises(ContractError, match=rf"model file .*{name} was altered: SHA-256 is .*; copy the folder again"):
        Scorer(folder)


def test_model_that_is_no_onnx_is_refused_by_name(folder: Path) -> None:
    (folder / MODEL_FILE).write_bytes(b"not a model")
    rewrite(folder)
    with pytest.raises(ContractError, match=r"model .*model.onnx cannot be loaded: .*; export it again"):
        Scorer(folder)


def test_model_with_other_features_is_refused_before_it_is_loaded(folder: Path) -> None:
    rewrite(folder, lambda m: m.update(features_version=FEATURES_VERSION + 1))
    (folder / MODEL_FILE).unlink()
    versions = f"features_version is {FEATURES_VERSION + 1}, this build serves {FEATURES_VERSION}"
    with pytest.raises(ContractError, match=f"{versions}; train and export the model"):
        Scorer(folder)
