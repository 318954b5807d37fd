"""Frozen SAM backbones: architectures, checkpoints, the encoder path and the batched mask decoder."""
