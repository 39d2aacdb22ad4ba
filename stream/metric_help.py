"""What each metric means, and what to do when it moves: the help texts on ``/metrics`` and in ``docs/metrics.md``."""

from __future__ import annotations

from typing import Final

__all__ = ["TEXTS"]

#: Name of a metric, as in :mod:`stream.metrics` → what it means, and what to do.
TEXTS: Final[dict[str, tuple[str, str]]] = {
    # Ingestion ------------------------------------------------------------------------------------------
    "events": (
        "Source records handled, by what became of them.",
        "if applied stops while lag grows, read the worker's log; replayed is normal for a moment after a restart; a"
        " rise of duplicate points at a retrying producer, of late at a delayed one (see --lateness-s).",
    ),
    "dead_letters": (
        "Records sent to the dead-letter topic, by reason.",
        "read that topic's newest records, their headers say what was found; fix the producer or choose the envelope"
        " preset that fits, then replay them.",
    ),
    "records_bytes": (
        "Bytes of source records handled.",
        "compare with the network and broker limits; if it rises faster than events, producers send larger events.",
    ),
    "consumer_lag": (
        "Records of a partition that wait to be applied.",
        "if all partitions grow, add workers (up to one per partition); if one does, look for a hot key or a stuck"
        " worker.",
    ),
    "watermark_lag_seconds": (
        "Wall clock minus the newest event time of a partition.",
        "without consumer lag the source itself is late or silent, so ask its owner; with lag, treat the lag.",
    ),
    "rebalances": (
        "Times that partitions were assigned anew.",
        "a few at deployments are normal; if it keeps rising, give workers stable instance ids, and raise"
        " --session-timeout-s if pauses outlast it.",
    ),
    "partitions_assigned": (
        "Partitions that this worker reads now.",
        "a steady 0 is a spare: there are more workers than partitions; 0 on all workers means that none is in the"
        " group, so check brokers and credentials.",
    ),
    # State, recovery, checkpoints -----------------------------------------------------------------------
    "recovery_remaining": (
        "Changelog records still to be read before this worker serves.",
        "let it fall to 0; if it stands still, check the broker and that the changelog topic is compacted only.",
    ),
    "recovery_seconds": (
        "How long the last recovery took, from the start or the revocation until partitions were ready.",
        "if it nears --recovery-deadline-s, keep the data directory on a volume that survives restarts.",
    ),
    "state_users": (
        "Users held in the hot state.",
        "plan memory with it; a jump without more traffic means that user ids are not stable at the source.",
    ),
    "state_bytes": (
        "Memory of the hot state.",
        "if it nears the memory limit, add workers or raise the limit.",
    ),
    "dirty_users": (
        "Users changed since the last checkpoint.",
        "a saw-tooth is normal; if it only grows, checkpoints fail, so see valuestream_checkpoints_total.",
    ),
    "checkpoints": (
        "Checkpoints tried: state, outputs and offsets made durable.",
        "any failed one is explained in the log, most often brokers that do not acknowledge; events replay, none is"
        " lost.",
    ),
    "checkpoint_seconds": (
        "How long a checkpoint takes.",
        "if it nears --checkpoint-interval-s, look at the brokers' produce latency, then lengthen the interval.",
    ),
    "commit_age_seconds": (
        "Time since offsets were last committed.",
        "with lag above 0 it must stay near --checkpoint-interval-s; if it only grows, the worker is stuck and"
        " liveness restarts it.",
    ),
    # Scoring --------------------------------------------------------------------------------------------
    "queue_depth": (
        "Users whose score is stale and who wait for a new one.",
        "if it only grows, inference is too slow: add workers, threads or a GPU, or raise --refresh-interval-s.",
    ),
    "queue_oldest_wait_seconds": (
        "How long the longest waiting user has been in the queue.",
        "above a few refresh intervals treat it like queue depth; scores are late, ingestion is not held up.",
    ),
    "stage_seconds": (
        "Time of one stage for one batch.",
        "the stage that grew is where to look: infer at the model and provider, publish at the brokers, state at"
        " memory.",
    ),
    "batch_users": (
        "Users in one inference.",
        "near --batch-users-max with a growing queue, raise that maximum; near 1 there is simply little to do.",
    ),
    "batch_tokens": (
        "Tokens in one inference, padding included.",
        "it sets memory and time of an inference; if either is too high, lower --batch-users-max.",
    ),
    "padding_ratio": (
        "Share of an inference's tokens that are padding.",
        "above one half the model works mostly on nothing, so lower --batch-users-max.",
    ),
    "scores": (
        "Scores acknowledged by the brokers, by what asked for them.",
        "if it stops while events are applied, see valuestream_scoring_errors_total and the queue.",
    ),
    "alerts": (
        "Alerts sent, by rule.",
        "a jump is a change of the customers, of the data or of the model; compare with a deployment before acting on"
        " users.",
    ),
    "alerts_unexplained": (
        "Alerts sent without reasons: others waited for a score (load), too many at once (bound), or the model failed"
        " (error).",
        "load: add workers or raise --batch-users-max; bound: raise --explain-users-max; error: read the log.",
    ),
    "scoring_errors": (
        "Batches that could not be scored; their users stay queued.",
        "read the log for the error of the provider; if it repeats, go back to the model before.",
    ),
    # Sentiment of reviews -------------------------------------------------------------------------------
    "reviews_scored": (
        "Reviews whose sentiment went into their user's state.",
        "if it stops while reviews are pending, see valuestream_sentiment_errors_total; 0 for ever means that no"
        " --sentiment-dir is set, or that no event carries a text.",
    ),
    "reviews_pending": (
        "Reviews that wait for their sentiment; offsets are not committed past the oldest.",
        "if it stays near --reviews-pending-max, the sentiment model is too slow: add workers, threads or a GPU, or"
        " take a smaller model.",
    ),
    "reviews_waits": (
        "Times that ingestion waited because too many reviews were pending.",
        "some in a backlog are normal; if it keeps rising, treat it like pending reviews, or raise"
        " --reviews-pending-max where they come in bursts.",
    ),
    "sentiment_errors": (
        "Batches of reviews whose sentiment could not be had; they stay pending.",
        "read the log for the error of the provider; if it repeats, go back to the sentiment model before.",
    ),
    # Latency --------------------------------------------------------------------------------------------
    "event_to_score_seconds": (
        "Event time until its score was acknowledged.",
        "if it rises and ingest to score does not, events reach the broker late: ask the source's owner.",
    ),
    "ingest_to_score_seconds": (
        "Broker timestamp of an event until its score was acknowledged; the service level is measured here.",
        "see lag first, then queue depth, then stage seconds; the first that grew is the cause.",
    ),
    # Versions -------------------------------------------------------------------------------------------
    "model_info": (
        "Always 1; its labels say which model scores, and where it runs.",
        "all workers must show the same model and the provider you configured; restart those that do not.",
    ),
    "build_info": (
        "Always 1; its labels say which build runs.",
        "after a deployment all workers must show the same; restart those that do not.",
    ),
}
