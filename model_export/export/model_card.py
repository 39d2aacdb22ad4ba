"""Model card: says in words what a model is for, how it was made and what it is worth (README.md of its folder)."""

from __future__ import annotations

from collections.abc import Mapping

from model_export.data.event_log import SIMULATOR
from model_export.export.precision_loss import PrecisionLoss
from model_export.run_folder import Run
from model_export.settings import Settings

__all__ = ["model_card", "privacy_words"]

_MEASURES = ("auc", "log_loss", "brier", "ece", "gini", "total_bias")


def model_card(run: Run, digest: str, sizes: Mapping[str, int], losses: Mapping[str, PrecisionLoss]) -> str:
    """Write the card as Markdown, from the run alone, so that the same run gives the same card.

    ``sizes`` (bytes) and ``losses`` have a key for each number format, for int8 one for each kind of quantisation
    (``int8 static``). A kind without a size was not shipped.
    """
    settings, labels, counts = run.settings, run.settings.labels, run.counts
    horizons = " and ".join(f"{days:g}" for days in labels.purchase_days)
    first, last = (instant[:10] for instant in run.trained_on)
    return f"""# {settings.name} {digest[:12]}

Scores every user active in the last {labels.eligible_days:g} days: the probability of doing nothing at all in the
next {labels.churn_days:g} days (churn), of an order within {horizons} days (purchase), and the expected net value of
{labels.value_days:g} days in {run.currency} (refunds subtracted).{_categories(run)}

## How it was made

Data: `{settings.data.name}`{_simulator(run)}, {first} to {last}, {counts["users"]:,} users, replayed through the state,
feature and encoding code that serves. Snapshots every {settings.snapshots.every_days:g} days and states right after
events: {counts["train"]:,} examples to train on, {counts["validation"]:,} for early stopping and calibration,
{counts["test"]:,} for the test. Each window begins after all label windows of the one before have closed.

Network: {settings.model.layers} BERT layers of width {settings.model.hidden} over the last events, fused with window
features; started at logistic regression on the features, best epoch {counts["best epoch"]} of {counts["epochs"]} by
validation loss; calibrated on the validation window; then trained anew, for as many epochs, on the {counts["recent"]:,}
newest examples whose labels had closed. Seed {settings.seed}.
{privacy_words(settings)}{_variants(sizes, losses)}
## What it is worth

{_table(run, "", "Snapshots of the test window: all eligible users at an instant, most of them silent.")}
{_table(run, "_at_events", "The moment after an event, as most live scores are made. There recency says nothing.")}
AUC and Gini: higher is better. Log-loss, Brier, ECE (calibration error) and the size of total bias: lower is better.
`recency` and `logistic` are baselines on the same users, calibrated and trained anew alike: days since the last event
alone, and logistic regression on all features, with Tweedie regression for value.
{_limits(run)}"""


def _categories(run: Run) -> str:
    return f"\nAlso the category of the next event, among {len(run.categories)}." if run.categories else ""


def _simulator(run: Run) -> str:
    data = run.settings.data
    if data.source != SIMULATOR:
        return ""
    return f" with seed {data.seed}, {data.users:,} shoppers at a time"


def privacy_words(settings: Settings) -> str:
    """What the weights may reveal about one user; empty if they were trained without a privacy budget."""
    fit = settings.fit
    if not fit.dp_epsilon:
        return ""
    return f"""
## Privacy of training

The weights are (ε, δ)-differentially private with ε = {fit.dp_epsilon:g}, δ = {fit.dp_delta:g}, and one user more or
less as the difference: DP-SGD with gradients of users cut to {fit.dp_clip:g} (Abadi et al. 2016; Rényi accountant of
Opacus). All epochs were run and the last one kept. Each of the two networks of a run (the one that was validated,
and this one, trained anew on the newest examples) spends this ε on its own examples; publishing both adds them up.

**Not covered**, as made from the users without noise: the features' scaling, names of categories, calibration,
percentiles, typical values, golden cases, and the metrics below.
"""


def _variants(sizes: Mapping[str, int], losses: Mapping[str, PrecisionLoss]) -> str:
    """Sizes and losses. The advice on which variant to serve holds for the widths measured, 32 and 128."""
    if not losses:
        return f"\n{sizes['fp32'] / 1e6:.2f} MB in fp32.\n"
    rows = [f"| fp32 | {sizes['fp32'] / 1e6:.2f} MB | – | – | – | – |"]
    for name, loss in losses.items():
        steady = "identical" if loss.alone == 0 else f"{loss.alone:.1e}"
        size = f"{sizes[name] / 1e6:.2f} MB" if name in sizes else "not shipped"
        rows.append(f"| {name} | {size} | {loss.error:.1e} | {loss.mean_error:.1e} | {loss.spearman:.5f} | {steady} |")
    return """
## Number formats

| | file | largest error | mean error | Spearman | a row alone |
|---|---:|---:|---:|---:|---:|
{}

Errors are in logits against fp32, on rows that calibrated nothing. Dynamic int8 takes its ranges from each batch, so
that a score depends on who else is in it; the kind that loses least among those that keep a row the same is shipped.
**Serve fp32 on a CPU**: at this size int8 and fp16 are no faster there. int8 and fp16 save memory; fp16 is for GPUs.
""".format("\n".join(rows))


def _table(run: Run, suffix: str, title: str) -> str:
    models = [m for m in ("event_bert", "recency", "logistic") if m + suffix in run.metrics]
    if not models:
        return ""
    rows = [f"{title}\n", f"| | {' | '.join(models)} |", f"|---|{'---:|' * len(models)}"]
    for name in run.metrics[models[0] + suffix]:
        if name.rpartition(".")[2] in _MEASURES:
            values = [run.metrics[m + suffix].get(name) for m in models]
            rows.append(f"| {name} | {' | '.join('–' if x is None else f'{x:.3f}' for x in values)} |")
    return "\n".join(rows) + "\n"


def _limits(run: Run) -> str:
    if run.settings.data.source != SIMULATOR:
        return ""
    return """
## Limits

It has seen simulated shoppers only. It shows how the service works; train on your own events before acting on scores.
"""
