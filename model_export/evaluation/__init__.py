"""Every model on the same users and snapshots, trained, calibrated and measured alike."""
