"""From a snapshot of users to their published scores: queue, features, tokens, model, calibration, decisions."""
