"""From a dataset folder to a committed store: plan, decode, encode, write, annotate."""
