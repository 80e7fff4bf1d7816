"""The API reference is what the CRDs say, and is not stale."""

import json
from pathlib import Path

import pytest

from controller.api.crd import engineprofile_crd, llmservice_crd
from controller.api.reference import main, reference_markdown
from profiler.errors import Refused

PAGE = Path(__file__).parents[2] / "docs" / "reference.md"


def test_the_page_is_not_stale() -> None:
    assert PAGE.read_text(encoding="utf-8") == reference_markdown(), (
        "run `python -m controller.api.reference docs/reference.md`"
    )


def test_every_leaf_and_rule_is_told() -> None:
    page = reference_markdown()
    for path in ("`engine.maxNumSeqs`", "`conditions[].type`", "`stepCost.kvTokenS`"):
        assert f"| {path} |" in page
    rules = json.dumps([llmservice_crd(), engineprofile_crd()]).count('"rule"')
    assert page.count("\n- `spec") == rules


def test_bounds_defaults_and_requirement_stand_in_the_row() -> None:
    rows = {line.split("|")[1].strip(): line for line in reference_markdown().splitlines()
            if line.startswith("| `")}  # fmt: skip
    assert "≥ 1; ≤ 99" in rows["`slo.percentile`"]
    assert "| `95` |" in rows["`slo.percentile`"]
    assert "*required*" in rows["`model.uri`"]
    assert "one of `vllm`, `emulated`" in rows["`engine.type`"]


def test_it_wants_one_path() -> None:
    with pytest.raises(Refused, match="one file"):
        main([])
