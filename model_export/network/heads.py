"""Names of the model's outputs."""

from __future__ import annotations

from stream.contract.manifest import Labels

__all__ = ["head_names"]


def head_names(labels: Labels) -> list[str]:
    """Names of the probability heads, churn first.

    >>> head_names(Labels(45, 14, (7, 30), 30))
    ['churn', 'purchase_7d', 'purchase_30d']
    """
    return ["churn", *(f"purchase_{days:g}d" for days in labels.purchase_days)]
