"""Envelopes: the shapes in which senders wrap events, one module for each, and a mapping for all others."""
