"""Reasons of an alert, in words that are true of the user."""
