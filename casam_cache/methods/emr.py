"""EMR-Merging of Alignment Layers (appendix D.1, 7): one vector for all tasks, a mask and a factor for each.

Every task's layer A_t is an ordinary fit from the same initial A_0, which depends on the run's seed alone. With
tau_t = A_t - A_0 and everything but lambda taken number by number:

    gamma    = sign(sum over tasks of tau_t)
    tau_uni  = gamma * max of |tau_t| over the tasks whose tau_t has the sign gamma        (elect)
    M_t      = [tau_t * tau_uni > 0]                                                       (mask)
    lambda_t = sum |tau_t| / sum |M_t * tau_uni|, one factor over all parameters           (rescale)
    merged_t = A_0 + lambda_t * M_t * tau_uni

lambda_t is EMR-Merging's own; the paper only says that it calibrates to the scale of the task's vector. It undoes what
the election adds where tasks agree and what the mask takes away where they do not: it can be below one, or above.

Masks and factors say which task an image is of: EMR needs to be told (`routing=oracle`), or a router has to find out
(`routing=density`, CA-SAM's). Results state which. Before its task is learnt, an image goes to the frozen SAM under an
oracle; images of unseen sets have no task to be told, so under an oracle nothing is reported of them.

To keep: tau_uni, and a bit a parameter and one number for each task; A_0 is drawn again from the seed.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Literal

import torch

from casam_cache.backbones.base import Backbone
from casam_cache.errors import CasamError
from casam_cache.heads.base import Head
from casam_cache.heads.options import AlignmentOptions
from casam_cache.methods.routed import Routed, Routing
from casam_cache.routers.choice import RoutingOptions

Vector = dict[str, torch.Tensor]


class EMROptions(AlignmentOptions, RoutingOptions):
    """The Alignment Layer, who names the task, and the router's options where that is a router.

    Attributes:
        routing: `oracle`, the true task is told at test time; `density`, CA-SAM's router decides.
        fallback: with `density`: images no task accepts go to the frozen SAM.
    """

    routing: Literal["oracle", "density"] = "oracle"
    fallback: bool = True


class EMR(Routed):
    """Elect, mask and rescale over the layers of all tasks seen."""

    name = "emr"
    Options = EMROptions
    merges = True

    @property
    def routing(self) -> Routing:
        assert isinstance(self.options, EMROptions)
        return self.options.routing

    def merge(self, backbone: Backbone, seed: int, heads: Mapping[str, Head]) -> dict[str, Head]:
        """Each task's layer after these tasks, on the CPU; sums run in sorted name order.

        Args:
            backbone: of the heads.
            seed: of the run.
            heads: fitted layers by task.

        Raises:
            CasamError: one of them is no layer but the identity.
        """
        start = _weights(self.build(backbone, seed))
        vectors = {
            task: {
                name: weight - start[name] for name, weight in _weights(heads[task]).items() if name in start
            }
            for task in sorted(heads)
        }
        other = [task for task, vector in vectors.items() if vector.keys() != start.keys()]
        if other:
            raise CasamError(
                f"the layer of task {other[0]} is the frozen SAM: nothing it learnt was better on held-out groups",
                "merge fits that keep what they end with: --set emr.held_out=0",
            )
        unified = elect(list(vectors.values()))
        merged = {}
        for task, vector in vectors.items():
            masked, factor = mask_and_rescale(vector, unified)
            head = copy.deepcopy(heads[task]).cpu()
            with torch.no_grad():
                for name, parameter in head.named_parameters():
                    parameter.copy_(start[name] + factor * masked[name])
            merged[task] = head
        return merged

    def bytes_kept(self, heads: Mapping[str, Head]) -> int:
        """The unified vector in float32, and for each task a bit a parameter and a float32 factor.

        Args:
            heads: fitted layers by task.
        """
        size = sum(parameter.numel() for parameter in next(iter(heads.values())).parameters())
        return 4 * size + len(heads) * (-(-size // 8) + 4)


def elect(vectors: list[Vector]) -> Vector:
    """tau_uni of task vectors, whose sums run in the order given.

    A number whose sum is zero, or where nothing moved, has no sign and stays zero.
    """
    unified = {}
    for name in vectors[0]:
        total = torch.zeros_like(vectors[0][name])
        for vector in vectors:
            total += vector[name]
        sign = total.sign()
        largest = torch.zeros_like(total)
        for vector in vectors:
            agrees = vector[name] * sign > 0
            largest = torch.where(agrees, torch.maximum(largest, vector[name].abs()), largest)
        unified[name] = sign * largest
    return unified


def mask_and_rescale(vector: Vector, unified: Vector) -> tuple[Vector, float]:
    """M_t * tau_uni and lambda_t of one task; the factor is summed in float64, 0 where the mask is empty."""
    masked = {name: torch.where(vector[name] * own > 0, own, 0.0) for name, own in unified.items()}
    moved = sum(float(tensor.double().abs().sum()) for tensor in vector.values())
    kept = sum(float(tensor.double().abs().sum()) for tensor in masked.values())
    return masked, moved / kept if kept else 0.0


def _weights(head: Head) -> Vector:
    return {name: parameter.detach().cpu().float() for name, parameter in head.named_parameters()}
