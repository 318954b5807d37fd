"""CA-SAM whose experts find objects: proposals of a task, and a router that falls back to the frozen SAM."""

from __future__ import annotations

from casam_cache.methods.routed import Routed
from casam_cache.routers.choice import RoutingOptions
from casam_cache.segmenters.options import ProposalHeadOptions


class CASAMProposalsOptions(ProposalHeadOptions, RoutingOptions):
    """Those of the head and of routing, and the fallback.

    Attributes:
        fallback: False sends every image to the nearest task's head, as routers without rejection do.
    """

    fallback: bool = True


class CASAMProposals(Routed):
    """Experts are fits of `proposals`; images no task accepts go to the frozen SAM, which is told its box.

    Routing is that of `ca-sam`, in every detail: what a head makes of an image has no part in it.
    """

    name = "ca-sam-proposals"
    Options = CASAMProposalsOptions
    expert = "proposals"
