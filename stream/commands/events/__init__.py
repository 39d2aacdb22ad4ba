"""``valuestream events``: looks at events before a worker does."""
