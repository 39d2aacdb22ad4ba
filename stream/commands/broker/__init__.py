"""``valuestream broker``: starts a real single-node Kafka on this machine, from pip packages alone."""
