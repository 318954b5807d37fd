"""The model that is used where none is named. A module of its own, so that the command line knows it without torch."""

DEFAULT_MODEL = "lite_medsam"
