"""`casam models`: the backbones there are, what an image costs with each, and where their weights come from."""

from __future__ import annotations

from casam_cli import console


def models(json_: bool = console.JsonOption) -> None:
    """List the models that encode: size, cost of an image, input, licence, and where their weights are or come from."""
    from casam_cache.backbones.catalogue import models as listed
    from casam_cache.report.models_table import models_table

    facts = listed()
    if json_:
        console.print_json({"models": [model.to_json() for model in facts]})
        return
    console.show_table(models_table(facts))
