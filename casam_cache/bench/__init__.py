"""Stages: content-addressed computations, each done once and found again by the hash of what it depends on."""
