"""The shapes of the paper's tables, one kind a file."""
