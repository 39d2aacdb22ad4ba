"""A session with bound buffers gives the numbers of a plain session, and never changes what it gave before."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from model_export.bench.io_binding import BoundSession
from model_export.export.export import to_onnx
from model_export.network.serving_graph import Serving
from stream.contract.tokens import CHANNELS
from stream.errors import ConfigError
from stream.score.scorer import open_session
from tests.model_export.small_run import network, sample

ROWS = sample(48)
TOKENS, NUMBERS = ROWS.tokens.astype(np.int32), ROWS.features
TYPE = CHANNELS.index("type")


@pytest.fixture(scope="module")
def graph() -> bytes:
    return to_onnx(network(), Serving(network()))


def test_bound_session_gives_what_a_session_gives_for_any_number_of_rows(graph: bytes) -> None:
    plain, bound = open_session(Path("model.onnx"), graph, "cpu", 1), BoundSession(graph, "cpu")
    for n, length in ((1, 8), (5, 8), (8, 8), (5, 64), (7, 8)):
        given = np.ascontiguousarray(TOKENS[:n, :length]), NUMBERS[:n]
        expected = plain.run(None, {"tokens": given[0], "features": given[1]})
        for found, wanted in zip(bound.run(*given), expected, strict=True):
            assert np.abs(found - wanted).max() < 1e-5
    # Buffers for 1 row, for 8 rows, and for 8 rows of another length.
    assert bound.shapes == 3


def test_outputs_of_a_bound_session_do_not_change_with_the_next_run(graph: bytes) -> None:
    bound = BoundSession(graph, "cpu")
    first = bound.run(TOKENS[:4], NUMBERS[:4])
    kept = [x.copy() for x in first]
    bound.run(TOKENS[4:8], NUMBERS[4:8])
    for a, b in zip(first, kept, strict=True):
        assert a.tobytes() == b.tobytes()


def test_missing_provider_is_refused_with_the_names_of_the_others(graph: bytes) -> None:
    if "TensorrtExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this onnxruntime has TensorRT")
    with pytest.raises(ConfigError, match=r"this onnxruntime has no TensorrtExecutionProvider, it has .*CPU"):
        BoundSession(graph, "tensorrt")
