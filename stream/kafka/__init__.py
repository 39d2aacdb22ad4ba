"""The only folder that imports Faust, aiokafka or kafka-python."""
