"""A run folder to the model folder that serves: ONNX variants, manifest, card, signature, verification."""
