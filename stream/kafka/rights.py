"""Rights: asks the broker before anything starts what our Kafka user may do, and names a right that was taken away.

Kafka tells a user its own rights (KIP-430), so none has to be tried out on real records. ``docs/security.md`` says
which rights are needed for what, and which commands give them.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Sequence
from contextlib import closing
from typing import Any, Final, Literal, NamedTuple

import aiokafka.errors
from kafka import KafkaAdminClient
from kafka.admin import MemberToRemove
from kafka.errors import GroupAuthorizationFailedError, KafkaError, TopicAuthorizationFailedError

from stream.errors import ConfigError, PublishError, ValuestreamError
from stream.kafka.clients import connect
from stream.settings import Settings

__all__ = ["Operation", "Right", "check_rights", "missing_right", "named_refusal", "require_rights"]

logger = logging.getLogger(__name__)

Operation = Literal["Read", "Write", "Create", "Describe", "DescribeConfigs"]
#: What aiokafka raises if a right is missing.
_REFUSED: Final = (aiokafka.errors.TopicAuthorizationFailedError, aiokafka.errors.GroupAuthorizationFailedError)
#: Each of these rights includes Describe.
_DESCRIBING: Final = frozenset({"Read", "Write", "Describe"})
#: How often, and with which pause, we ask for a group's coordinator. A new cluster makes its offsets topic only when
#: the first group asks, and a coordinator that has moved must load that topic first.
_COORDINATOR_TRIES: Final = 30
_COORDINATOR_WAIT_S: Final = 0.5


class Right(NamedTuple):
    """One operation on one resource, in the words of ``kafka-acls.sh``."""

    resource: Literal["topic", "group"]
    name: str
    operation: Operation


def check_rights(settings: Settings, rights: Iterable[Right]) -> None:
    """Connect, and raise ConfigError with one line if our user lacks any of these rights."""
    with closing(connect(settings)) as admin:
        require_rights(settings, admin, rights)


def require_rights(settings: Settings, admin: KafkaAdminClient, rights: Iterable[Right]) -> None:
    """Raise ConfigError with one line if our user lacks any of these rights: which ones, and how to give the first.

    Every right counts as given if the broker has no authorizer, or does not say what we may do.
    """
    required = list(rights)
    try:
        missing = [*_missing_on_topics(admin, required), *_missing_on_groups(admin, required)]
    except KafkaError as error:
        raise ConfigError(
            f"the broker did not say what our user may do ({error}); expected an answer within seconds;"
            " check its health, then try again"
        ) from error
    if missing:
        raise missing_right(settings, missing)


def missing_right(settings: Settings, rights: Sequence[Right]) -> ConfigError:
    """Make the error that names the missing rights and the command that gives the first of them."""
    missing = ", ".join(f"{right.operation} {right.resource} {right.name}" for right in rights)
    resource, name, operation = rights[0]
    user = settings.sasl_username
    return ConfigError(
        f"Kafka user {user or 'of this connection'} has no right to {missing}; expected the rights that"
        f" docs/security.md lists; run kafka-acls.sh --add --allow-principal User:{user or 'NAME'}"
        f" --operation {operation} --{resource} {name}"
    )


def named_refusal(settings: Settings, error: BaseException, rights: Iterable[Right]) -> ValuestreamError | None:
    """Return the one-line error for a worker that ends because of this error of Kafka, and log it at once.

    Returns None for other errors. If a right was lost, aiokafka names the topic but not the operation, so the broker
    is asked again.
    """
    if not isinstance(error, aiokafka.errors.KafkaError | PublishError):
        return None
    lost: ConfigError | None = None
    if isinstance(error.__cause__ or error, _REFUSED):
        try:
            check_rights(settings, rights)
        except ConfigError as refused:
            lost = refused
    line = (
        f"Kafka refused us: {lost or error}; nothing was committed past what is durable, so mend the cause and start"
        " the worker again"
    )
    # It is logged now as well, because a worker that is forced to end says nothing more.
    logger.error(line)
    return ValuestreamError(line)


def _missing_on_topics(admin: KafkaAdminClient, rights: Sequence[Right]) -> list[Right]:
    on_topics = [right for right in rights if right.resource == "topic"]
    described = admin.describe_topics(sorted({right.name for right in on_topics}))
    topics = {topic["name"]: topic for topic in described}
    return [right for right in on_topics if not _allows(topics[right.name], right.operation)]


def _allows(topic: dict[str, Any], operation: Operation) -> bool:
    """Return whether we may do this to the topic.

    If we may not even describe the topic, nothing else is known about it. Then only rights that include Describe are
    reported as missing.
    """
    if topic["error_code"] == TopicAuthorizationFailedError.errno:
        return operation not in _DESCRIBING
    allowed: list[str] | None = topic["authorized_operations"]
    return allowed is None or operation in {name.title().replace("_", "") for name in allowed}


def _missing_on_groups(admin: KafkaAdminClient, rights: Sequence[Right]) -> list[Right]:
    return [right for right in rights if right.resource == "group" and not _may_join(admin, right.name)]


def _may_join(admin: KafkaAdminClient, group: str) -> bool:
    """Return whether we have Read on a group.

    The group may not exist yet, and then describing it tells nothing. So we remove a member that was never in it: that
    changes nothing, and needs the same right as joining.
    """
    stranger = MemberToRemove(member_id="valuestream-never-has-this-member")
    for tries_left in reversed(range(_COORDINATOR_TRIES)):
        try:
            admin.remove_group_members(group, [stranger])
        except GroupAuthorizationFailedError:
            return False
        except KafkaError as error:
            if not (error.retriable and tries_left):
                raise
            time.sleep(_COORDINATOR_WAIT_S)
        else:
            break
    return True
