"""People sections: predictions and examples of cohorts, of one-time buyers, and of the groups that the data names."""

from __future__ import annotations

from typing import Final

import numpy as np

from model_export.data.examples import Examples
from model_export.evaluation.evaluation_folder import ScoredExamples
from model_export.evaluation.one_time_buyers import one_time_buyers
from model_export.metrics.measures import auc, ece
from model_export.metrics.ranking import rank_predictions
from model_export.report.inputs import ReportInputs, best_f1_threshold
from model_export.report.markup import Markup, figure, grid, note, paragraph, section, table
from model_export.report.plots import cohorts_plot, one_time_buyers_plot
from model_export.report.shares import Shares, shares_of_sets
from model_export.report.wording import number, percent, task_titles
from stream.arrays import Mask, Rows
from stream.contract.columns import DAY_S
from stream.contract.tokens import CHANNELS, FEATURES

__all__ = ["USERS_MIN", "cohorts_section", "groups_section", "one_time_buyers_section"]

#: Sets with fewer users are not shown: their shares say little about the model and much about single people.
USERS_MIN: Final = 30
#: With fewer users the interval of a share is wider than 14 points.
_FEW_USERS: Final = 200
#: How many months of first events are shown one by one; all earlier months are one cohort.
_MONTHS_MAX: Final = 12
#: Cohorts by activity begin at these numbers of events.
_EVENTS: Final = (1, 2, 5, 10, 20, 50)


def cohorts_section(inputs: ReportInputs) -> Markup:
    """Predicted and observed shares by month of the first event and by number of events."""
    examples = inputs.newest
    members = {**_by_month(examples), **_by_events(examples)}
    shown = {name: rows for name, rows in members.items() if len(rows) >= USERS_MIN}
    if not shown:
        return Markup()
    titles = task_titles(inputs.evaluation.settings.labels)
    shares = {head: shares_of_sets(shown, inputs.probability(head), inputs.actual(head)) for head in inputs.heads}
    return section(
        "New and old, busy and quiet users",
        paragraph(
            "Cohorts by month of the first event and by number of events so far. A prediction outside the bar, the "
            "95 % interval of what came true, is off for that cohort by more than chance explains."
        ),
        grid(*(figure(cohorts_plot(titles[head], of_head), head) for head, of_head in shares.items())),
        note(
            f"Cohorts not shown, as they have fewer than {USERS_MIN} examples: "
            f"{len(members) - len(shown)} of {len(members)}."
        ),
    )


def _by_month(examples: ScoredExamples) -> dict[str, Rows]:
    tenure_days = np.expm1(examples.features[:, FEATURES.index("tenure")].astype(np.float64))
    first = (examples.as_of - np.rint(tenure_days * DAY_S).astype(np.int64)).astype("datetime64[s]")
    months = first.astype("datetime64[M]")
    oldest_alone = months.max() - (_MONTHS_MAX - 1)
    early = np.flatnonzero(months < oldest_alone)
    alone = np.unique(months[months >= oldest_alone])
    named = {f"new in {month}": np.flatnonzero(months == month) for month in alone}
    return {f"new before {oldest_alone}": early, **named} if len(early) else named


def _by_events(examples: ScoredExamples) -> dict[str, Rows]:
    n_events = np.rint(np.expm1(examples.features[:, FEATURES.index("n_events")].astype(np.float64)))
    place = np.searchsorted(_EVENTS, n_events, "right")
    names = [_event_range(first, below) for first, below in zip(_EVENTS, (*_EVENTS[1:], None), strict=True)]
    return {name: np.flatnonzero(place == i) for i, name in enumerate(names, start=1)}


def _event_range(first: int, below: int | None) -> str:
    if below is None:
        return f"{first} or more events"
    return "1 event" if below == 2 else f"{first} to {below - 1} events"


def one_time_buyers_section(inputs: ReportInputs) -> Markup:
    """Predicted and observed share of further orders among one-time buyers, by days since their order."""
    head = inputs.heads[-1]
    tenths = one_time_buyers(_examples(inputs.newest), inputs.probability(head))
    if not tenths:
        return Markup()
    shares = Shares.with_intervals(
        [f"{t.days:.0f} days" for t in tenths],
        *(np.array([getattr(t, name) for t in tenths]) for name in ("n", "predicted", "observed")),
    )
    days = np.array([t.days for t in tenths])
    return section(
        "Who has ordered once",
        paragraph(
            "The longer ago the only order was, the less likely a second one is. Do not trust a model with lapsed "
            "users if its prediction does not fall. "
            f"From {days[0]:.0f} to {days[-1]:.0f} days since the order, the prediction goes "
            f"from {percent(shares.predicted[0])} to {percent(shares.predicted[-1])}, what came true from "
            f"{percent(shares.observed[0])} to {percent(shares.observed[-1])}."
        ),
        grid(
            figure(
                one_time_buyers_plot("Second order", days, shares),
                f"{head}, {int(shares.n.sum()):,} one-time buyers in tenths.",
            )
        ),
    )


def _examples(scored: ScoredExamples) -> Examples:
    """The examples as :func:`one_time_buyers` reads them; columns that an evaluation does not keep are 0."""
    n = len(scored.user)
    zeros = np.zeros(n, np.int64)
    return Examples(
        tokens=np.zeros((n, 0, len(CHANNELS)), np.uint16),
        features=scored.features,
        churn=scored.labels[:, 0],
        purchase=scored.labels[:, 1:],
        value=scored.value,
        category=zeros.astype(np.uint16),
        user=scored.user,
        as_of=scored.as_of,
        applied_offset=zeros,
        at_event=np.zeros(n, np.bool_),
    )


def groups_section(inputs: ReportInputs) -> Markup:
    """Fairness by the groups that the data names; empty if it names none."""
    names, group = inputs.evaluation.groups, inputs.newest.group
    if len(names) < 2:
        return Markup()
    members = {name or "(no group)": np.flatnonzero(group == i) for i, name in enumerate(names)}
    members = {name: rows for name, rows in members.items() if len(rows)}
    users = {name: len(np.unique(inputs.newest.user[rows])) for name, rows in members.items()}
    shown = {name: rows for name, rows in members.items() if users[name] >= USERS_MIN}
    few = [name for name in shown if users[name] < _FEW_USERS]
    return section(
        "Groups of users",
        paragraph(
            "No model sees these groups. Compare how often the model is wrong, and in which direction: it serves a "
            "group worse if its predictions are too high or too low there, or if it misses more users."
        ),
        *(_groups_of_head(inputs, head, shown) for head in inputs.plotted_heads),
        note(
            f"Groups not shown, as they have fewer than {USERS_MIN} users: "
            f"{len(members) - len(shown)} of {len(members)}."
        ),
        note(f"Fewer than {_FEW_USERS} users, so numbers are rough: {', '.join(few)}.") if few else Markup(),
    )


def _groups_of_head(inputs: ReportInputs, head: str, members: dict[str, Rows]) -> Markup:
    p, y = inputs.probability(head), inputs.actual(head)
    threshold = best_f1_threshold(rank_predictions(p, y))
    shares = shares_of_sets(members, p, y)
    rows = []
    for i, (name, group) in enumerate(members.items()):
        ranked, called, actual = rank_predictions(p[group], y[group]), p[group] >= threshold, y[group] > 0
        observed = f"{shares.observed[i]:.3f} [{shares.low[i]:.3f}, {shares.high[i]:.3f}]"
        rows.append([
            name, f"{shares.n[i]:,}", observed, f"{shares.predicted[i]:.3f}", f"{ece(ranked):.3f}",
            _defined("auc", auc(ranked)), _share(called, ~actual), _share(~called, actual),
        ])  # fmt: skip
    titles = task_titles(inputs.evaluation.settings.labels)
    return table(
        f"{titles[head]}. Called positive from {threshold:.3f} on, the threshold of best F1 over all users.",
        ["group", "examples", "base rate", "mean prediction", "calibration error (ECE)", "AUC", "false positive rate",
         "false negative rate"],
        rows,
    )  # fmt: skip


def _defined(metric: str, value: float) -> str:
    return number(metric, value if np.isfinite(value) else None)


def _share(called: Mask, among: Mask) -> str:
    """The share of ``called`` users among ``among``, or a dash if there are none."""
    return percent(float(called[among].mean())) if among.any() else number("auc", None)
