"""Turns examples into a calibrated network: pretraining, fit, calibration and differential privacy."""
