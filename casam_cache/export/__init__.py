"""Fitted models where other programs take them: as `segment_anything`'s Sam, and as ONNX graphs."""
