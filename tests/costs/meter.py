"""Meter: counts what a stage costs. Costs are not timed, so neither the machine nor its load changes them.

Run as a module, in a process of its own, it prints the costs of all stages as JSON. With ``--laps`` it counts nothing,
but marks the start and end of each stage for valgrind, which counts machine instructions.
"""

from __future__ import annotations

import gc
import json
import os
import sys
import tracemalloc
from collections.abc import Callable
from types import FrameType
from typing import Any, Final, NamedTuple

from tests.costs.workload import Stage, Workload

__all__ = ["BLOCK_BYTES", "ROOM_BYTES", "Cost", "cost_of", "measure"]

#: Smaller allocations are Python objects. The count of bytecodes covers them.
BLOCK_BYTES: Final = 1024
#: Larger ones are room for future users. That costs nothing until it is written to, and no batch here needs so much.
ROOM_BYTES: Final = 8 * 2**20


class Cost(NamedTuple):
    """The cost of one event or user.

    ``bytecodes`` that the interpreter executes and ``python_calls`` measure Python code. ``c_calls`` measure the work
    that a bytecode hides. ``array_bytes`` measure vectorised code, where one call works for a whole batch: they are the
    bytes allocated in blocks of :data:`BLOCK_BYTES` to :data:`ROOM_BYTES`.
    """

    bytecodes: float
    python_calls: float
    c_calls: float
    array_bytes: float


class _Operations:
    """A trace function and a profile function that count."""

    def __init__(self) -> None:
        self.bytecodes = self.python_calls = self.c_calls = 0

    def trace(self, frame: FrameType, event: str, _arg: Any) -> Any:
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        if event == "opcode":
            self.bytecodes += 1
        return self.trace

    def profile(self, _frame: FrameType, event: str, _arg: Any) -> None:
        self.python_calls += event == "call"
        self.c_calls += event == "c_call"


class _Allocations:
    """A trace function that adds up the bytes that each bytecode allocates, even if they are freed at once."""

    def __init__(self) -> None:
        self.bytes = self._before = 0

    def trace(self, frame: FrameType, _event: str, _arg: Any) -> Any:
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        now, peak = tracemalloc.get_traced_memory()
        allocated = peak - self._before
        if BLOCK_BYTES <= allocated < ROOM_BYTES:
            self.bytes += allocated
        self._before = now
        tracemalloc.reset_peak()
        return self.trace


def measure() -> dict[str, Any]:
    """Stage → its cost per event or user."""
    return {s.name: {"per": s.per, **cost_of(s)._asdict()} for s in Workload().stages()}


def cost_of(stage: Stage) -> Cost:
    """The cost of one event or user of a stage. The first call does not count: it fills caches and imports modules."""
    stage.prepare()()
    operations = _operations(stage.prepare())
    allocated = _allocated(stage.prepare())
    counts = operations.bytecodes, operations.python_calls, operations.c_calls, allocated
    return Cost(*(round(count / stage.n, 3) for count in counts))


def _operations(call: Callable[[], object]) -> _Operations:
    found = _Operations()
    gc.disable()
    sys.settrace(found.trace)
    sys.setprofile(found.profile)
    try:
        call()
    finally:
        sys.setprofile(None)
        sys.settrace(None)
        gc.enable()
    return found


def _allocated(call: Callable[[], object]) -> int:
    found = _Allocations()
    gc.disable()
    tracemalloc.start()
    sys.settrace(found.trace)
    try:
        call()
    finally:
        sys.settrace(None)
        tracemalloc.stop()
        gc.enable()
    return found.bytes


def _laps() -> None:
    """Run each stage between two calls of ``getppid``. At each call callgrind writes its counts since the last one."""
    stages = Workload().stages()
    for stage in stages:
        stage.prepare()()
        call = stage.prepare()
        os.getppid()
        call()
        os.getppid()
    print(json.dumps([[stage.name, stage.per, stage.n] for stage in stages]))


if __name__ == "__main__":
    if "--laps" in sys.argv:
        _laps()
    else:
        print(json.dumps(measure()))
