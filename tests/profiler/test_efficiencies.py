"""Known members shift a prediction and are trusted more; unknown ones change nothing."""

import math

import pytest

from profiler.architecture import load_architecture
from profiler.efficiencies import (
    EFFECTS,
    LEVELS,
    find_efficiency,
    members,
    population,
    with_effects,
)
from profiler.operators import Efficiency

LLAMA = load_architecture("Llama-3.1-70B")


def test_the_shipped_population_is_whole_and_possible():
    known = population()
    assert set(known.effects) == set(known.spread) == set(LEVELS)
    for level in LEVELS:
        assert set(known.spread[level]) == set(EFFECTS)
        for effects in known.effects[level].values():
            assert set(effects) == set(EFFECTS)
    for name in ("compute_bf16", "compute_fp8", "compute_fp4", "weights", "kv"):
        assert 0.2 < getattr(known.base, name) <= 1.0


def test_nobody_in_particular_gets_the_base():
    efficiency, _ = find_efficiency(load_architecture("microsoft/phi-4"), "A10G", "other")
    assert efficiency == population().base


def test_a_deployment_that_was_measured_is_trusted_more():
    _, measured = find_efficiency(LLAMA, "H100-SXM", "vllm")
    _, guessed = find_efficiency(load_architecture("microsoft/phi-4"), "L4", "vllm")
    assert measured.compute < guessed.compute
    assert measured.weights < guessed.weights


def test_models_of_one_shape_share_what_is_known():
    llama33 = load_architecture("Llama-3.3-70B-Instruct")
    assert members(LLAMA, "B200", "vllm", "") == members(llama33, "B200", "vllm", "")


@pytest.mark.parametrize("effect", EFFECTS)
def test_an_effect_multiplies_its_own_fields_alone(effect):
    base = Efficiency()
    changed = with_effects(base, {effect: math.log(2)})
    for name in base.__dataclass_fields__:
        factor = 2.0 if name in EFFECTS[effect] else 1.0
        assert getattr(changed, name) == pytest.approx(factor * getattr(base, name))
