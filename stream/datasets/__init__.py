"""Where events come from if no shop sends them: files of known data sets, and a simulated market.

``events`` is the envelope that both write. ``formats`` reads the files. ``market`` simulates shoppers, and knows who
has left for good. All three are pure: no Kafka, no settings, no command line.
"""
