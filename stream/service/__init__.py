"""The running service: settings, Kafka, health, metrics and the command line around the pure stages."""
