"""`--set key=value`: one reading for every command."""

import pytest
from pydantic import BaseModel, ConfigDict

from casam_cache.bench.configs import with_settings
from casam_cache.bench.recipe import read_recipe
from casam_cache.config import parse_assignments, parse_settings, single_values
from casam_cache.errors import OptionError


class Blocks(BaseModel):
    model_config = ConfigDict(extra="forbid")
    blocks: int = 3
    relu: str = "pre"


class Rate(BaseModel):
    model_config = ConfigDict(extra="forbid")
    rate: float = 1.0


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("rate=1e-4", [1e-4]),
        ("rate = 1 , 2.5", [1, 2.5]),
        ("ca-sam.fallback=true,false", [True, False]),
        ("shrinkage=null,0.5", [None, 0.5]),
        ("order=paper", ["paper"]),
        ("views=flip_h+rot90", ["flip_h+rot90"]),
        ("router=my_file.py:Cosine,vae", ["my_file.py:Cosine", "vae"]),
        ("limit=inf", ["inf"]),
        ("name={a: 1}", ["{a: 1}"]),
        ("day=2024-01-01", ["2024-01-01"]),
        ("path=a=b", ["a=b"]),
    ],
)
def test_values_are_what_they_look_like(text: str, values: list[object]) -> None:
    [(key, found)] = parse_settings([text]).items()
    assert key == text.partition("=")[0].strip()
    assert found == values
    assert [type(value) for value in found] == [type(value) for value in values]


@pytest.mark.parametrize("text", ["blocks", "=1", "blocks=", "blocks=1,,2", "blocks=1,"])
def test_text_of_another_form_is_refused(text: str) -> None:
    with pytest.raises(OptionError, match="expected key=value"):
        parse_settings([text])


def test_a_key_given_twice_is_refused() -> None:
    with pytest.raises(OptionError, match="'blocks' is given twice") as caught:
        parse_settings(["blocks=1", "blocks=1"])
    assert "blocks=value1,value2" in caught.value.hint
    assert parse_settings(["blocks=1", "emr.blocks=2"]) == {"blocks": [1], "emr.blocks": [2]}


def test_one_fit_takes_no_grid() -> None:
    with pytest.raises(OptionError, match="blocks=1,2: one fit takes one value") as caught:
        single_values({"blocks": [1, 2]})
    assert "casam bench --set blocks=1,2" in caught.value.hint


def test_every_key_belongs_to_one_model() -> None:
    assert parse_assignments(["rate=1e-3", "blocks=2"], [Blocks, Rate]) == [Blocks(blocks=2), Rate(rate=1e-3)]
    with pytest.raises(OptionError, match="unknown option 'block'") as caught:
        parse_assignments(["block=2"], [Blocks, Rate])
    assert "blocks=3 (int), relu=pre (str), rate=1.0 (float)" in caught.value.hint
    with pytest.raises(OptionError, match=r"wrong value for blocks.*'many'"):
        parse_assignments(["blocks=many"], [Blocks, Rate])


@pytest.mark.parametrize("texts", [["emr.blocks=2", "blocks=1,4"], ["blocks=1,4", "emr.blocks=2"]])
def test_a_setting_of_one_method_comes_before_one_of_all(texts: list[str]) -> None:
    recipe = with_settings(read_recipe({"title": "T", "methods": ["naive", "emr"]}, "a test"), texts)
    assert [entry.set for entry in recipe.methods] == [{"blocks": [1, 4]}, {"blocks": 2}]
