"""A runs folder as pages for a browser: one folder that opens from disk, without a server or a network."""
