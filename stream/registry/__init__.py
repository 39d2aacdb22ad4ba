"""The schema registry: fetch schemas by id, read values by them, and write scores in the Confluent wire format."""
