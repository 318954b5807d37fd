"""Heads without prompts by name: installed ones, registered ones, or a class in a file: `my_file.py:MySegmenter`."""

from __future__ import annotations

from casam_cache.errors import CasamError, unknown_name
from casam_cache.references import is_file_reference
from casam_cache.registry import Registry
from casam_cache.segmenters.base import Segmenter
from casam_cache.segmenters.proposals import Proposals

SEGMENTERS: Registry[Segmenter] = Registry("head without prompts", Segmenter, "casam_cache.segmenters")
PROPOSALS: Registry[Proposals] = Registry("head of proposals", Proposals, "casam_cache.proposals")


def proposes(name: str) -> bool:
    """Whether the head of that name, or of `FILE.py:Class`, finds objects; else it gives a map of classes.

    Raises:
        OptionError: there is no such head; the message lists those there are.
    """
    if is_file_reference(name):
        try:
            PROPOSALS.get(name)
        except CasamError:
            return False  # what is wrong with it is said when it is asked for a map
        return True
    if name not in (known := [*SEGMENTERS.names(), *PROPOSALS.names()]):
        raise unknown_name(SEGMENTERS.kind, name, [*sorted(known), "FILE.py:CLASS"])
    return name in PROPOSALS.names()
