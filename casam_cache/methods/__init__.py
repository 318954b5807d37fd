"""Ways of adapting a frozen SAM, one a file; found by name through entry points, or in a file of the user's."""
