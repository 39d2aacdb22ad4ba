"""Assertions in the helpers of these tests are explained like those in the tests."""

from __future__ import annotations

import pytest

pytest.register_assert_rewrite("tests.state.erasure_bench")
