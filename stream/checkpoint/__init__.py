"""Checkpoint: makes the progress of a partition durable, in the changelog, in the journal and in commits."""
