"""CA-SAM (section 3.3, Algorithm 7): an Alignment Layer a task, and a router that falls back to the frozen SAM."""

from __future__ import annotations

from casam_cache.heads.options import AlignmentOptions
from casam_cache.methods.routed import Routed
from casam_cache.routers.choice import RoutingOptions


class CASAMOptions(AlignmentOptions, RoutingOptions):
    """Those of the Alignment Layer and of routing, and the fallback.

    Attributes:
        fallback: False sends every image to the nearest task's layer, as routers without rejection do.
    """

    fallback: bool = True


class CASAM(Routed):
    """Experts are ordinary Alignment Layer fits; images no task accepts bypass them all.

    Embeddings are pooled by equation 5, scored by one density a task (equations 6 and 7), and sent to the task with the
    lowest score if it is within that task's threshold, calibrated by K folds on the task's own training images.
    """

    name = "ca-sam"
    Options = CASAMOptions
    expert = "alignment"
