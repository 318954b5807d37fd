"""What `casam fit --recipe` takes: the backbone's recipe, the paper's, or a recipe file with one method."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from casam_cache.bench.recipe import load_recipe
from casam_cache.errors import OptionError, unknown_name
from casam_cache.methods.registry import METHODS
from casam_cache.training.options import TrainingOptions

DEFAULT_RECIPE = "default"
RECIPES = (DEFAULT_RECIPE, "paper")
DEFAULT_METHOD = "alignment"


@dataclass(frozen=True)
class FitRecipe:
    """What stands in a fit of one task where options say nothing.

    Attributes:
        method: what is fitted.
        backbone: whether the backbone's own recipe stands behind `options`.
        options: of the method and the training.
        prompts: what is scored with, where a file says so.
    """

    method: str
    backbone: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)
    prompts: str | None = None

    @classmethod
    def read(cls, recipe: str, method: str | None) -> FitRecipe:
        """By name, or from a file that `casam search` or a person wrote for `casam bench`.

        Args:
            recipe: `default`, `paper`, or a YAML file.
            method: the one that is asked for; None is the file's, or else `alignment`.

        Raises:
            OptionError: no such recipe; or the file does not say which one fit is meant.
        """
        if recipe in RECIPES:
            return cls(method or DEFAULT_METHOD, recipe == DEFAULT_RECIPE)
        path = Path(recipe)
        if path.suffix not in (".yaml", ".yml") and not path.is_file():
            raise unknown_name("recipe", recipe, [*RECIPES, "a YAML file"])
        found = load_recipe(path)
        entries = [entry for entry in found.methods if method in (None, entry.method, entry.label)]
        named = ", ".join(entry.label or entry.method for entry in found.methods)
        if not entries:
            raise OptionError(f"recipe {path} has no method '{method}'", f"methods of it: {named}")
        if len(entries) > 1:
            raise OptionError(
                f"recipe {path} has {len(entries)} entries, and one fit takes one", f"--method, of {named}"
            )
        [entry] = entries
        grid = [key for key, value in entry.set.items() if isinstance(value, list) and len(value) > 1]
        if grid:
            raise OptionError(
                f"recipe {path} has several values of '{grid[0]}', and one fit takes one",
                f"casam bench --recipe {path} runs each",
            )
        own = {key: value[0] if isinstance(value, list) else value for key, value in entry.set.items()}
        options = {**found.training, **own}
        known = {*METHODS.get(entry.method).options_model().model_fields, *TrainingOptions.model_fields}
        unknown = [key for key in options if key not in known]
        if unknown:
            raise OptionError(
                f"recipe {path}: method '{entry.method}' has no option '{unknown[0]}'",
                f"options: {', '.join(sorted(known))}",
            )
        return cls(entry.method, found.defaults == "backbone", options, found.prompts)
