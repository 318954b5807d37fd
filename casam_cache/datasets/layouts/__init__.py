"""Readers of layouts that many datasets share, one a file."""
