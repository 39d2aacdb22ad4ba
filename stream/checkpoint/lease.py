"""Lease: the right to send for the partitions that the consumer group gave us, until the group may give them away.

The group waits one session timeout after a member's last heartbeat before it gives its partitions to another. So who
has been answered within less than that can send; who has not, because it was paused or cut off, may have been replaced,
and what it sent late would overwrite what its successor wrote. Kleppmann, "How to do distributed locking" (2016),
shows that a lease alone cannot exclude a message that was under way when the pause began; for those, recovery keeps
of two values of a user the one that has seen more (:meth:`stream.kafka.table.UserStore.apply_changelog_batch`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    from stream.clock import Clock

__all__ = ["Lease", "MembershipLease"]

#: The lease ends this share of a session after the heartbeat, so that what is sent at its end arrives in time.
_SHARE_OF_SESSION: Final = 0.75


class Lease(Protocol):
    """The right to send for our partitions."""

    @property
    def held(self) -> bool:
        """Whether no other worker can have our partitions yet."""

    @property
    def term(self) -> int:
        """Which assignment it is for; what was to be sent in one term must not be sent in the next."""

    def end_term(self) -> None:
        """Our partitions are given up."""


class MembershipLease:
    """Held while the group coordinator has answered a request that was sent less than three quarters of a session ago.

    >>> from stream.clock import ManualClock
    >>> clock = ManualClock()
    >>> lease = MembershipLease(clock, session_timeout_s=8.0)
    >>> lease.renew(clock.monotonic())
    >>> clock.advance(seconds=5.9); lease.held
    True
    >>> clock.advance(seconds=0.1); lease.held
    False
    """

    def __init__(self, clock: Clock, session_timeout_s: float) -> None:
        self._clock, self._session_s = clock, session_timeout_s
        self._renewed = float("-inf")
        self.term = 0

    @property
    def held(self) -> bool:
        """Whether no other worker can have our partitions yet."""
        return self.age_s < _SHARE_OF_SESSION * self._session_s

    @property
    def in_session(self) -> bool:
        """Whether the group cannot have forgotten us yet."""
        return self.age_s < self._session_s

    @property
    def age_s(self) -> float:
        """Seconds since the last request that the coordinator answered was sent."""
        return self._clock.monotonic() - self._renewed

    def renew(self, sent: float) -> None:
        """The coordinator has answered a request that was sent at this monotonic time."""
        self._renewed = sent

    def end_term(self) -> None:
        """Our partitions are given up; what still waits to be sent for them is not sent."""
        self.term += 1
