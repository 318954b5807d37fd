"""MoDA with HQ-SAM's decoder in place of the Alignment Layer (Table 1, "MoDA + HQ-SAM")."""

from __future__ import annotations

from casam_cache.heads.options import HQOptions
from casam_cache.methods.moda import MoDA
from casam_cache.routers.classifier import ClassifierOptions


class MoDAHQOptions(HQOptions, ClassifierOptions):
    """The decoder and the classifier."""


class MoDAHQ(MoDA):
    """The ordinary fits of `hq-sam`, routed by MoDA's classifier."""

    name = "moda-hq"
    Options = MoDAHQOptions
    expert = "hq-sam"
    needs = ("embedding", "early")
