"""Which task does an image belong to, or none: poolings, one fitted density a task, thresholds, and the choice.

Pure functions and small classes over arrays. Fitting knows one task's training features and nothing else.
"""
