"""People: predictions and outcomes of cohorts, of one-time buyers, and of the groups that the data names."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt

from model_export.data.examples import Examples
from model_export.evaluation.evaluation_folder import Outcomes
from model_export.evaluation.one_time_buyers import one_time_buyers
from model_export.metrics.measures import auc, ece
from model_export.metrics.ranking import rank_predictions
from model_export.report.markup import figure, grid, note, paragraph, section, table
from model_export.report.material import Material, best_f1_threshold
from model_export.report.plots import buyers, cohorts
from model_export.report.shares import Shares, shares_of
from model_export.report.wording import number, percent, task_titles
from stream.contract.columns import DAY_S
from stream.contract.tokens import CHANNELS, FEATURES

__all__ = ["USERS_MIN", "by_cohort", "by_group", "once"]

Array = npt.NDArray[Any]
#: Sets of fewer users are not shown: their shares say little of the model and much of single people.
USERS_MIN: Final = 30
#: Below this many users the interval of a share is wider than 14 points.
_FEW_USERS: Final = 200
#: Months of first events shown one by one; all before are one cohort.
_MONTHS_MAX: Final = 12
#: Least number of events of each cohort by activity.
_EVENTS: Final = (1, 2, 5, 10, 20, 50)


def by_cohort(material: Material) -> str:
    """Predicted and observed shares by month of the first event and by number of events."""
    outcomes = material.newest
    members = {**_by_month(outcomes), **_by_events(outcomes)}
    shown = {name: rows for name, rows in members.items() if len(rows) >= USERS_MIN}
    if not shown:
        return ""
    titles = task_titles(material.evaluation.settings.labels)
    shares = {head: shares_of(shown, material.probability(head), material.actual(head)) for head in material.heads}
    return section(
        "New and old, busy and quiet users",
        paragraph(
            "Cohorts by month of the first event and by number of events so far. A prediction outside the bar, the "
            "95 % interval of what came true, is off for that cohort by more than chance explains."
        ),
        grid(*(figure(cohorts(titles[head], of), head) for head, of in shares.items())),
        note(
            f"Cohorts not shown, as they have fewer than {USERS_MIN} examples: "
            f"{len(members) - len(shown)} of {len(members)}."
        ),
    )


def _by_month(outcomes: Outcomes) -> dict[str, Array]:
    tenure_days = np.expm1(outcomes.features[:, FEATURES.index("tenure")].astype(np.float64))
    first = (outcomes.as_of - np.rint(tenure_days * DAY_S).astype(np.int64)).astype("datetime64[s]")
    months = first.astype("datetime64[M]")
    oldest_alone = months.max() - (_MONTHS_MAX - 1)
    early = np.flatnonzero(months < oldest_alone)
    alone = np.unique(months[months >= oldest_alone])
    named = {f"new in {month}": np.flatnonzero(months == month) for month in alone}
    return {f"new before {oldest_alone}": early, **named} if len(early) else named


def _by_events(outcomes: Outcomes) -> dict[str, Array]:
    n_events = np.rint(np.expm1(outcomes.features[:, FEATURES.index("n_events")].astype(np.float64)))
    place = np.searchsorted(_EVENTS, n_events, "right")
    names = [_range(least, below) for least, below in zip(_EVENTS, (*_EVENTS[1:], None), strict=True)]
    return {name: np.flatnonzero(place == i) for i, name in enumerate(names, start=1)}


def _range(least: int, below: int | None) -> str:
    if below is None:
        return f"{least} or more events"
    return "1 event" if below == 2 else f"{least} to {below - 1} events"


def once(material: Material) -> str:
    """Predicted and observed share of further orders among one-time buyers, by days since their order."""
    head = material.heads[-1]
    tenths = one_time_buyers(_examples(material.newest), material.probability(head))
    if not tenths:
        return ""
    shares = Shares.of(
        [f"{t.days:.0f} days" for t in tenths],
        *(np.array([getattr(t, name) for t in tenths]) for name in ("n", "predicted", "observed")),
    )
    days = np.array([t.days for t in tenths])
    return section(
        "Who has ordered once",
        paragraph(
            "The longer ago the only order was, the less likely is a second; a model that does not follow is not to be "
            f"trusted with lapsed users. From {days[0]:.0f} to {days[-1]:.0f} days since the order, the prediction "
            f"goes from {percent(shares.predicted[0])} to {percent(shares.predicted[-1])}, what came true from "
            f"{percent(shares.observed[0])} to {percent(shares.observed[-1])}."
        ),
        grid(
            figure(buyers("Second order", days, shares), f"{head}, {int(shares.n.sum()):,} one-time buyers in tenths.")
        ),
    )


def _examples(outcomes: Outcomes) -> Examples:
    """The test examples without the columns that an evaluation does not keep."""
    n = len(outcomes.user)
    nothing = np.zeros(n, np.int64)
    return Examples(
        tokens=np.zeros((n, 0, len(CHANNELS)), np.uint16),
        features=outcomes.features,
        churn=outcomes.labels[:, 0],
        purchase=outcomes.labels[:, 1:],
        value=outcomes.value,
        category=nothing.astype(np.uint16),
        user=outcomes.user,
        as_of=outcomes.as_of,
        applied_offset=nothing,
        at_event=np.zeros(n, np.bool_),
    )


def by_group(material: Material) -> str:
    """Fairness by the groups that the data names; nothing where it names none."""
    names, group = material.evaluation.groups, material.newest.group
    if len(names) < 2:
        return ""
    members = {name or "(no group)": np.flatnonzero(group == i) for i, name in enumerate(names)}
    members = {name: rows for name, rows in members.items() if len(rows)}
    users = {name: len(np.unique(material.newest.user[rows])) for name, rows in members.items()}
    shown = {name: rows for name, rows in members.items() if users[name] >= USERS_MIN}
    few = [name for name in shown if users[name] < _FEW_USERS]
    return section(
        "Groups of users",
        paragraph(
            "No model sees these groups. Compare how often the model is wrong, and in which direction: a group that is "
            "told too much or too little, or missed more often, is served worse."
        ),
        *(_groups_of_head(material, head, shown) for head in material.drawn_heads),
        note(
            f"Groups not shown, as they have fewer than {USERS_MIN} users: "
            f"{len(members) - len(shown)} of {len(members)}."
        ),
        note(f"Fewer than {_FEW_USERS} users, so numbers are rough: {', '.join(few)}.") if few else "",
    )


def _groups_of_head(material: Material, head: str, members: dict[str, Array]) -> str:
    p, y = material.probability(head), material.actual(head)
    threshold = best_f1_threshold(rank_predictions(p, y))
    shares = shares_of(members, p, y)
    rows = []
    for i, (name, of) in enumerate(members.items()):
        ranked, called, actual = rank_predictions(p[of], y[of]), p[of] >= threshold, y[of] > 0
        observed = f"{shares.observed[i]:.3f} [{shares.low[i]:.3f}, {shares.high[i]:.3f}]"
        rows.append([
            name, f"{shares.n[i]:,}", observed, f"{shares.predicted[i]:.3f}", f"{ece(ranked):.3f}",
            _defined("auc", auc(ranked)), _share(called, ~actual), _share(~called, actual),
        ])  # fmt: skip
    titles = task_titles(material.evaluation.settings.labels)
    return table(
        f"{titles[head]}. Called positive from {threshold:.3f} on, the threshold of best F1 over all users.",
        ["group", "examples", "base rate", "mean prediction", "calibration error (ECE)", "AUC", "false positive rate",
         "false negative rate"],
        rows,
    )  # fmt: skip


def _defined(metric: str, found: float) -> str:
    return number(metric, found if np.isfinite(found) else None)


def _share(called: Array, among: Array) -> str:
    """Share called so among some, a dash where there are none."""
    return percent(float(called[among].mean())) if among.any() else number("auc", None)
