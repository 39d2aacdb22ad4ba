"""From a snapshot of users to their scores: queue, features, tokens, model, calibration, decisions."""
