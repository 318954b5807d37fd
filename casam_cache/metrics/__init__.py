"""Pure functions of masks and of outcome columns (numpy and scipy only, no torch)."""
