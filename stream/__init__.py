"""valuestream: live churn, purchase and lifetime-value scores from a Kafka clickstream.

Start reading at :mod:`stream.pipeline`, which shows the way of one event on one screen.
"""

import os

# onnxruntime uploads usage data from its first import on, unless this is set before. A service that promises
# pseudonyms sends nothing home, so the switch stands where no import of ours can come before it.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
