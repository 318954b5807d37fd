"""Heads that need no prompt: from an image's embedding to a map of classes, or to its objects."""
