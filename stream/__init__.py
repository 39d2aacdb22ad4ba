"""valuestream: live churn, purchase and lifetime-value scores from a Kafka clickstream.

Start reading at :mod:`stream.pipeline`, which shows the way of one event on one screen.
"""
