"""Checks: the invariants that must hold at each commit, at each recovery, and at the end of a schedule."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from stream.checkpoint.position import Position
from stream.contract.columns import USER
from stream.contract.score import Score
from stream.outgoing import Outgoing
from tests.contract.packed_users import without_scores
from tests.simulation.broker import CHANGELOG, DLQ, SCORES, Stored
from tests.simulation.disk import Disk
from tests.simulation.oracle import expected
from tests.simulation.shop import LATENESS_S, START

if TYPE_CHECKING:
    from tests.simulation.world import World

__all__ = ["Checks"]


class Checks:
    """Compares what the broker has with an undisturbed replay of ``source``."""

    def __init__(self, world: World, source: Sequence[Stored], partitions: int) -> None:
        self._world = world
        by_number = {n: [r for r in source if r.partition == n] for n in range(partitions)}
        self._expected = {n: expected(records, LATENESS_S, START) for n, records in by_number.items()}
        self._ends = {n: records[-1].offset + 1 if records else 0 for n, records in by_number.items()}
        #: Partition → user → offsets of the last event and the last review that the changelog holds for them.
        self._durable: dict[int, dict[str, tuple[int, int]]] = defaultdict(dict)
        self._dead: dict[int, set[int]] = defaultdict(set)

    # -- at all times ---------------------------------------------------------------------------------------

    def appended(self, topic: str, partition: int, records: Iterable[Outgoing]) -> None:
        """Note that the broker has these records now."""
        durable = self._durable[partition]
        for record in records:
            if topic == CHANGELOG and record.key and record.value:
                user, seen = record.key.decode(), _seen(record.value)
                durable[user] = tuple(map(max, seen, durable.get(user, seen)))  # type: ignore[assignment]
            elif topic == DLQ:
                self._dead[partition].add(int(dict(record.headers)["valuestream.source.offset"] or b""))

    def committed(self, name: str, offsets: Mapping[int, tuple[int, str]]) -> None:
        """Check an accepted commit: everything before it must be durable."""
        for number, (offset, _) in offsets.items():
            self._check_covered(f"{name} committed {number}:{offset}", number, offset, self._durable[number])
            dead = {d for d in self._expected[number].dead if d < offset} - self._dead[number]
            if dead:
                self._world.fail(f"{name} committed {number}:{offset}, but dead letters {sorted(dead)} are not sent")

    def resumed(self, name: str, store: Disk, positions: Mapping[int, Position]) -> None:
        """Check a recovered store: it must have everything before the committed position."""
        for number, position in positions.items():
            durable = {key.decode(): _seen(value) for key, value in store.users(number)}
            self._check_covered(f"{name} resumed {number}:{position.offset}", number, position.offset, durable)

    def _check_covered(self, what: str, number: int, offset: int, durable: Mapping[str, tuple[int, int]]) -> None:
        nothing = (-1, -1)
        for which, done in enumerate((self._expected[number].accepted, self._expected[number].reviews)):
            for at, user in done:
                if at < offset and durable.get(user, nothing)[which] < at:
                    kind = ("event", "review")[which]
                    self._world.fail(f"{what}, but {kind} {at} of {user} is not there: {durable.get(user, nothing)}")

    # -- at the end -----------------------------------------------------------------------------------------

    def all_committed(self) -> bool:
        """Whether every partition is committed to its end."""
        return all(self._world.group.committed.get(n, (0, ""))[0] == end for n, end in self._ends.items())

    def final(self) -> None:
        """Check that state, scores and dead letters are those of the undisturbed replay."""
        for number, expected_partition in self._expected.items():
            fresh = Disk()
            log = self._world.broker.logs[CHANGELOG, number]
            if log:
                fresh.recover(number, log)
            states = {key.decode(): without_scores(value) for key, value in fresh.users(number)}
            self._equal(f"states of partition {number}", states, expected_partition.states)
            self._equal(f"last scores of partition {number}", self._last_scores(number), expected_partition.scores)
            if self._dead[number] != expected_partition.dead:
                self._world.fail(
                    f"dead letters of {number} are {self._dead[number]}, expected {expected_partition.dead}"
                )
        self._same_bytes()

    def _last_scores(self, number: int) -> dict[str, bytes]:
        return {(r.key or b"").decode(): r.value or b"" for r in self._world.broker.logs[SCORES, number]}

    def _equal(self, what: str, found: Mapping[str, bytes], expected: Mapping[str, bytes]) -> None:
        wrong = [user for user in sorted(found.keys() | expected.keys()) if found.get(user) != expected.get(user)]
        if wrong:
            one, other = _description(found.get(wrong[0])), _description(expected.get(wrong[0]))
            self._world.fail(f"{what} are wrong for {', '.join(wrong)}: of the first found {one}, expected {other}")

    def _same_bytes(self) -> None:
        """Check that a score that was sent twice is the same to the byte."""
        by_id: dict[str, bytes] = {}
        for (topic, _), log in self._world.broker.logs.items():
            for record in log if topic == SCORES else ():
                value = record.value or b""
                score = msgspec.json.decode(value, type=Score)
                if by_id.setdefault(score.score_id, value) != value:
                    self._world.fail(f"score {score.score_id} of {score.user_id} was sent with other bytes")


def _seen(value: bytes) -> tuple[int, int]:
    """Offsets of the last event, and of the last review with its sentiment, that a packed user includes."""
    head = np.frombuffer(value[1 : 1 + USER.itemsize], USER)
    return int(head["applied_offset"][0]), int(head["sentiment_offset"][0])


def _description(value: bytes | None) -> str:
    if value is None:
        return "nothing"
    if value.startswith(b"{"):
        score = msgspec.json.decode(value, type=Score)
        return (
            f"as of {score.as_of} offset {score.applied_offset}, {score.n_events} events, {score.churn.probability:.6f}"
        )
    head = np.frombuffer(value[: USER.itemsize], USER)
    return str({name: head[name][0].item() for name in ("applied_offset", "sentiment_offset", "n_events", "reviews")})
