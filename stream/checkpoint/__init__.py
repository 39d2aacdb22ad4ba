"""What makes a partition's progress durable: its position, changelog, journal on disk, lease and pending reviews."""
