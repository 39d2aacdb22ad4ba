"""Training and export: replay events through the serving stages, fit the event BERT, write ONNX."""
