"""``valuestream dlq``: lists, shows and replays dead letters."""
