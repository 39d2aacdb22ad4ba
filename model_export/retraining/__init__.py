"""Retrains a model on new labels, and promotes the new model only if it is better."""
