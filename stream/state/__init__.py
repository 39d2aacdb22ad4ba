"""The hot state of a partition: numpy columns with a row for each user."""
