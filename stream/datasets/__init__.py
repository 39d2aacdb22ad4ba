"""Where events come from when no shop sends them: real files and a simulated market.

``events`` is the envelope both write, ``formats`` reads files of known data sets, ``shoppers`` simulates a
market of which the truth is known. All three are pure: no Kafka, no settings, no command line.
"""
