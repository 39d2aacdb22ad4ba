"""Examples to a calibrated network: pretraining, fit, calibration, differential privacy."""
