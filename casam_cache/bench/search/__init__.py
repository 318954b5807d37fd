"""A search over options of a head: trials are stages, judged on validation groups alone."""
