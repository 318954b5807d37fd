"""Readers of published datasets, each in the layout in which it is distributed."""
