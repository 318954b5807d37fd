"""Modules that are trained on stored embeddings, between the frozen encoder and the mask decoder."""
