"""What the service and the training code agree on: events, state columns, tokens, records, the model manifest."""
