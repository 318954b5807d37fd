"""The model that is used where none is named. A module of its own, so that the command line knows it without torch."""

DEFAULT_MODEL = "lite_medsam"
HELD_OUT = 0.2  # of the training images, to choose the state of a fit on
