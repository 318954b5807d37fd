"""CA-SAM (section 3.3, Algorithm 7): an Alignment Layer a task, and a router that falls back to the frozen SAM."""

from __future__ import annotations

from casam_cache.backbones.base import Backbone
from casam_cache.heads.base import Head
from casam_cache.heads.options import AlignmentOptions
from casam_cache.methods.alignment import build_alignment
from casam_cache.methods.routed import Routed
from casam_cache.routers.options import PoolingOptions, RouterOptions


class CASAMOptions(AlignmentOptions, RouterOptions, PoolingOptions):
    """Those of the Alignment Layer, of the router and of the pooling, and the fallback.

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

    def build(self, backbone: Backbone, seed: int) -> Head:
        """The Alignment Layer of one task."""
        return build_alignment(self.options, backbone, seed)
