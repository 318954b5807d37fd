"""The one training loop on stored embeddings, its losses and prompts, and evaluation."""
