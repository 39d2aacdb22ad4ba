"""Lease: the right to send for our partitions, which lasts until the consumer group may give them to another worker.

The group waits one session timeout after a member's last heartbeat before it gives the member's partitions away. So a
worker may send if the group has answered it more recently than that. A worker that was paused or cut off for longer
may have been replaced, and its late records would overwrite those of its successor.

Kleppmann, "How to do distributed locking" (2016), shows that a lease alone cannot stop a message that was under way
when the pause began. For those messages, recovery compares two values of a user and keeps the one that has seen more
events (:meth:`stream.kafka.table.UserStore.apply_changelog_batch`). See ``docs/decisions/0011-membership-lease.md``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    from stream.clock import Clock

__all__ = ["Lease", "MembershipLease"]

#: The lease ends this share of a session after the heartbeat, so that records sent at its end still arrive in time.
_SHARE_OF_SESSION: Final = 0.75


class Lease(Protocol):
    """The right to send for our partitions."""

    @property
    def held(self) -> bool:
        """Whether it is too early for another worker to have our partitions."""

    @property
    def term(self) -> int:
        """The number of the current assignment. Records of one term must not be sent in the next."""

    def end_term(self) -> None:
        """Note that our partitions are given up."""


class MembershipLease:
    """Is held if the group coordinator has answered a request that we sent less than three quarters of a session ago.

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
        """Whether it is too early for another worker to have our partitions."""
        return self.age_s < _SHARE_OF_SESSION * self._session_s

    @property
    def in_session(self) -> bool:
        """Whether it is too early for the group to have forgotten us."""
        return self.age_s < self._session_s

    @property
    def age_s(self) -> float:
        """Seconds since we sent the last request that the coordinator answered."""
        return self._clock.monotonic() - self._renewed

    def renew(self, sent: float) -> None:
        """Note that the coordinator has answered a request that we sent at this monotonic time."""
        self._renewed = sent

    def end_term(self) -> None:
        """Note that our partitions are given up. Records that still wait are not sent."""
        self.term += 1
