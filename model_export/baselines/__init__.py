"""Baselines: what a model must be measured against, behind one small interface (``baseline.Baseline``).

=============  =====================================================================================
linear         ``Recency`` (days since the last event alone) and ``Logistic`` (all features)
trees          ``LightGbm``, on the features, or on the features and more columns
bgnbd          ``BgNbd``: BG/NBD and Gamma-Gamma, on the order history alone
=============  =====================================================================================

Baselines do not calibrate their scores. All models are calibrated in the same way, on the validation split.
"""
