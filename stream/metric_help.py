"""Help texts of the metrics: what each one means, and what to do when it moves.

``/metrics`` serves them, and ``docs/metrics.md`` lists them.
"""

from __future__ import annotations

from typing import Final

__all__ = ["TEXTS"]

#: Name of a metric, as in :mod:`stream.metrics` → what it means, and what to do when it moves.
TEXTS: Final[dict[str, tuple[str, str]]] = {
    # Ingestion ------------------------------------------------------------------------------------------
    "events": (
        "Source records handled, by outcome. A record of several events counts once for each of them.",
        "if applied stops while lag grows, read the worker's log. Some replayed events are normal for a moment after a"
        " restart. More duplicates point at a producer that retries; more late events point at a producer that is"
        " delayed (see --lateness-s).",
    ),
    "dead_letters": (
        "Records sent to the dead-letter topic, by reason.",
        "read the headers of the newest records of that topic: they say what was found. Fix the producer or choose the"
        " envelope preset that fits, then replay the records.",
    ),
    "fields_ignored": (
        "Fields left out of their event because they could not be read, by field. The event counts without them.",
        "a few are normal. If it rises with the events, the sender writes this field in a form of its own, so scores"
        " lack it: mend the sender.",
    ),
    "records_bytes": (
        "Bytes of source records handled.",
        "compare it with the limits of the network and the brokers. If it rises faster than events, producers send"
        " larger events.",
    ),
    "oauth_tokens": (
        "Attempts to get a token for Kafka's OAUTHBEARER log-in, by outcome.",
        "failed rises: the issuer is down or refuses us. An old token serves to its end; after that, connections that"
        " the broker ends cannot be made again. Look at the issuer, and at the worker's log for its answer.",
    ),
    "schema_registry_errors": (
        "How often the schema registry did not answer a worker that needed a schema.",
        "read the worker's log: it says what was asked and what came back. No event is lost.",
    ),
    "schema_registry_wait_seconds": (
        "How long ingestion has now waited for the schema registry; 0 if it does not wait.",
        "above 0 the registry is down or refuses us: bring it back. Ingestion then goes on by itself.",
    ),
    "consumer_lag": (
        "Records of a partition that wait to be applied.",
        "if all partitions grow, add workers (up to one per partition). If one partition grows, look for a hot key or"
        " a stuck worker.",
    ),
    "watermark_lag_seconds": (
        "Wall clock minus the newest event time of a partition.",
        "without consumer lag the source itself is late or silent, so ask its owner. With consumer lag, treat that"
        " first.",
    ),
    "rebalances": (
        "How often partitions were assigned to this worker.",
        "a few at deployments are normal. If it keeps rising, give workers stable instance ids, and raise"
        " --session-timeout-s if pauses last longer than it.",
    ),
    "partitions_assigned": (
        "Partitions that this worker reads now.",
        "a steady 0 is a spare: there are more workers than partitions. If all workers show 0, none is in the group,"
        " so check brokers and credentials.",
    ),
    # State, recovery, checkpoints -----------------------------------------------------------------------
    "recovery_remaining": (
        "Changelog records that this worker must still read before it serves.",
        "let it fall to 0. If it stands still, check the broker, and check that the changelog topic has"
        " the cleanup policy compact and no other.",
    ),
    "recovery_seconds": (
        "How long the last recovery took, from the start or the revocation until partitions were ready.",
        "if it nears --recovery-deadline-s, keep the data directory on a volume that survives restarts.",
    ),
    "state_users": (
        "Users held in the hot state.",
        "plan memory with it. A jump without more traffic means that user ids are not stable at the source.",
    ),
    "state_bytes": (
        "Memory of the hot state.",
        "if it nears the memory limit, add workers or raise the limit.",
    ),
    "dirty_users": (
        "Users changed since the last checkpoint.",
        "a saw-tooth is normal. If it only grows, checkpoints fail, so see valuestream_checkpoints_total.",
    ),
    "checkpoints": (
        "Checkpoints tried, by outcome. A checkpoint makes state, outputs and offsets durable.",
        "the log explains each failed checkpoint. Most often brokers do not acknowledge. Events then replay, and none"
        " is lost.",
    ),
    "checkpoint_seconds": (
        "How long a checkpoint takes.",
        "if it nears --checkpoint-interval-s, look at the produce latency of the brokers, then lengthen the interval.",
    ),
    "commit_age_seconds": (
        "Time since offsets were last committed.",
        "while lag is above 0 it must stay near --checkpoint-interval-s. If it only grows, the worker is stuck, and"
        " its liveness check restarts it.",
    ),
    # Scoring --------------------------------------------------------------------------------------------
    "queue_depth": (
        "Users with a stale score who wait for a new one.",
        "if it only grows, inference is too slow: add workers, threads or a GPU, or raise --refresh-interval-s.",
    ),
    "queue_oldest_wait_seconds": (
        "How long the longest waiting user has been in the queue.",
        "above a few refresh intervals treat it like queue depth. Scores are late, but ingestion is not held up.",
    ),
    "stage_seconds": (
        "Time of one stage for one batch.",
        "look at the stage that grew: for infer at the model and the provider, for publish at the brokers, for state"
        " at memory.",
    ),
    "batch_users": (
        "Users in one inference.",
        "if it is near --batch-users-max and the queue grows, raise that maximum. If it is near 1, there is little to"
        " do.",
    ),
    "batch_tokens": (
        "Tokens in one inference, padding included.",
        "it sets the memory and the time of an inference. If either is too high, lower --batch-users-max.",
    ),
    "padding_ratio": (
        "Share of an inference's tokens that are padding.",
        "above one half the model works mostly on nothing, so lower --batch-users-max.",
    ),
    "scores": (
        "Scores acknowledged by the brokers, by what made them necessary.",
        "if it stops while events are applied, see valuestream_scoring_errors_total and the queue.",
    ),
    "alerts": (
        "Alerts sent, by rule.",
        "a jump means that the customers, the data or the model changed. Compare it with your deployments before you"
        " act on users.",
    ),
    "alerts_unexplained": (
        "Alerts sent without reasons: others waited for a score (load), too many came at once (bound), or the model"
        " failed (error).",
        "load: add workers or raise --batch-users-max; bound: raise --explain-users-max; error: read the log.",
    ),
    "scoring_errors": (
        "Batches that could not be scored. Their users stay queued.",
        "read the provider's error in the log. If it repeats, go back to the previous model.",
    ),
    # Sentiment of reviews -------------------------------------------------------------------------------
    "reviews_scored": (
        "Reviews with a sentiment that went into the state of their user.",
        "if it stops while reviews are pending, see valuestream_sentiment_errors_total. If it stays 0, no"
        " --sentiment-dir is set, or no event carries a text.",
    ),
    "reviews_pending": (
        "Reviews that wait for their sentiment. Offsets are not committed past the oldest of them.",
        "if it stays near --reviews-pending-max, the sentiment model is too slow: add workers, threads or a GPU, or"
        " use a smaller model.",
    ),
    "reviews_waits": (
        "How often ingestion waited because too many reviews were pending.",
        "some are normal in a backlog. If it keeps rising, treat it like pending reviews, or raise"
        " --reviews-pending-max if reviews come in bursts.",
    ),
    "sentiment_errors": (
        "Batches of reviews for which the sentiment model failed. They stay pending.",
        "read the provider's error in the log. If it repeats, go back to the previous sentiment model.",
    ),
    # Latency --------------------------------------------------------------------------------------------
    "event_to_score_seconds": (
        "Time from the event time of an event until its score was acknowledged.",
        "if it rises and ingest to score does not, events reach the broker late: ask the source's owner.",
    ),
    "ingest_to_score_seconds": (
        "Time from the broker timestamp of an event until its score was acknowledged. The service level is measured"
        " here.",
        "see lag first, then queue depth, then stage seconds. The first of them that grew is the cause.",
    ),
    # Versions -------------------------------------------------------------------------------------------
    "model_info": (
        "Always 1. Its labels say which model scores, and where it runs.",
        "all workers must show the same model, and the provider that you configured. Restart those that do not.",
    ),
    "build_info": (
        "Always 1. Its labels say which build runs.",
        "after a deployment all workers must show the same. Restart those that do not.",
    ),
}
