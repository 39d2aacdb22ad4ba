"""Trains, calibrates and measures every candidate in the same way, on the same users and test sets."""
