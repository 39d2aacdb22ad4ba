"""The model card: what a model is for, how it was made and what it is worth, in words (README.md of its folder)."""

from __future__ import annotations

from model_export.run import Run

__all__ = ["model_card"]

_MEASURES = ("auc", "log_loss", "brier", "ece", "gini", "total_bias")


def model_card(run: Run, digest: str, n_bytes: int) -> str:
    """Markdown made of the run alone, so that the same run gives the same card."""
    labels, counts = run.plan.labels, run.counts
    horizons = " and ".join(f"{days:g}" for days in labels.purchase_days)
    first, last = (instant[:10] for instant in run.trained_on)
    return f"""# {run.name} {digest[:12]}

Scores every user active in the last {labels.eligible_days:g} days: the probability of doing nothing at all in the
next {labels.churn_days:g} days (churn), of an order within {horizons} days (purchase), and the expected net value of
{labels.value_days:g} days in {run.data.money} (refunds subtracted).

## How it was made

Data: `{run.data.name}`{_simulator(run)}, {first} to {last}, {counts["users"]:,} users, replayed through the state,
feature and encoding code that serves. Snapshots every {run.plan.every_days:g} days and states right after events:
{counts["train"]:,} examples to train on, {counts["validation"]:,} for early stopping and calibration,
{counts["test"]:,} for the test. Each window begins after all label windows of the one before have closed.

Network: {run.model.layers} BERT layers of width {run.model.hidden} over the last events, fused with window features;
started at logistic regression on the features, best epoch {counts["best epoch"]} of {counts["epochs"]} by validation
loss; Platt scaling. Seed {run.fit.seed}; {n_bytes / 1e6:.1f} MB in fp32.

## What it is worth

{_table(run, "", "Snapshots of the test window: all eligible users at an instant, most of them silent.")}
{_table(run, "_at_events", "The moment after an event, as most live scores are made. There recency says nothing.")}
AUC and Gini: higher is better. Log-loss, Brier, ECE (calibration error) and the size of total bias: lower is better.
`recency` and `logistic` are baselines on the same users: days since the last event alone, and logistic regression on
all features; their value is the probability of an order times the mean value of a buyer.
{_limits(run)}"""


def _simulator(run: Run) -> str:
    if run.data.source != "simulator":
        return ""
    return f" with seed {run.data.seed}, {run.data.users:,} shoppers at a time"


def _table(run: Run, suffix: str, title: str) -> str:
    models = [m for m in ("event_bert", "recency", "logistic") if m + suffix in run.metrics]
    if not models:
        return ""
    rows = [f"{title}\n", f"| | {' | '.join(models)} |", f"|---|{'---:|' * len(models)}"]
    for name in run.metrics[models[0] + suffix]:
        if name.rpartition(".")[2] in _MEASURES:
            found = [run.metrics[m + suffix].get(name) for m in models]
            rows.append(f"| {name} | {' | '.join('–' if x is None else f'{x:.3f}' for x in found)} |")
    return "\n".join(rows) + "\n"


def _limits(run: Run) -> str:
    if run.data.source != "simulator":
        return ""
    return """
## Limits

It has seen simulated shoppers only. It shows how the service works; train on your own events before acting on scores.
"""
