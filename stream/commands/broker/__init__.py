"""``valuestream broker``: a real single-node Kafka on this machine, from pip packages alone."""
