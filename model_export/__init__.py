"""Training and export: replay events through the serving stages, fit the event BERT, write ONNX."""

import stream  # noqa: F401  # switches onnxruntime's telemetry off before any module here imports it
