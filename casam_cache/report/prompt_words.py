"""What test prompts are, in words, for the notes under tables."""

from __future__ import annotations

from collections.abc import Iterable

from casam_cache.training.evaluation_prompts import ORACLE_BOX, EvaluationPrompt, parse_prompt


def explained_prompts(names: Iterable[str]) -> list[str]:
    """A note on what each prompt is, but for the true box, whose name says it.

    Args:
        names: `EvaluationPrompt.name`, perhaps repeated.
    """
    return [f"{name}: {explain(parse_prompt(name))}." for name in dict.fromkeys(names) if name != ORACLE_BOX]


def explain(prompt: EvaluationPrompt) -> str:
    """What a mask is prompted with, and which of the decoder's masks counts."""
    box = "the tight box of the true mask"
    if prompt.kind == "box":
        return box
    if prompt.kind == "jitter":
        reach = f"{prompt.amount:g} pixels" if prompt.pixels else f"{100 * prompt.amount:g} % of its length"
        return f"{box}, each side moved by up to {reach}"
    where = (
        "drawn from the true mask"
        if prompt.random
        else "at the centre of the mask's largest inscribed circle"
    )
    first = f"one foreground point {where}, answered with the best of the decoder's masks by its own estimate"
    if prompt.passes == 1:
        return first
    return (
        f"{prompt.clicks} clicks, scored after the last: {first}; then each at the centre of the largest region that is"
        " still wrong, with the logits before it, answered with one mask"
    )
