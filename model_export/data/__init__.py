"""Turns a data set into labelled examples, through the serving code."""
