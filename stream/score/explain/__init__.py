"""The reasons on an alert: sentences that are true of the user."""
