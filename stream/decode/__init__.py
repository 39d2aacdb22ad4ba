"""Raw records to typed events: envelopes, money, names and pseudonyms."""
