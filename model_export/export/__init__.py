"""Turns a run folder into the model folder that serves: ONNX variants, manifest, card, signature, verification."""
