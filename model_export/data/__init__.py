"""A data set to labelled examples, through the serving code."""
