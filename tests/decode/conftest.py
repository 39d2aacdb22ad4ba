"""Fixtures of the tests of decode: each envelope preset, with its maker of events."""

from __future__ import annotations

import pytest

pytest.register_assert_rewrite("tests.decode.makers")

from tests.decode.makers import MAKERS, Make  # noqa: E402 - only after it was registered


@pytest.fixture(params=MAKERS)
def preset(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def make(preset: str) -> Make:
    return MAKERS[preset]
