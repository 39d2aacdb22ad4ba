"""Decode raw records into typed events: envelopes, money, names and pseudonyms."""
