"""The plan of docs/upgrades.md on paper: both ways, nothing is lost.

These rules become the conversion webhook with `v1beta1`; until then nothing needs them.
"""

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from controller.api import parse_service
from tests.controller.builders import a_manifest

ALPHA, BETA = "serving.whaleflux.io/v1alpha1", "serving.whaleflux.io/v1beta1"
KEPT = "serving.whaleflux.io/v1beta1-slo"
METRICS = {"ttftMs": "TTFT", "itlMs": "ITL", "e2eMs": "E2E"}
Json = dict[str, Any]


def to_beta(alpha: Json) -> Json:
    spec, meta = dict(alpha["spec"]), dict(alpha["metadata"])
    slo, notes = spec.pop("slo", None), dict(meta.pop("annotations", {}))
    if slo is not None:
        spec["slo"] = {"objectives": _objectives(slo, notes.pop(KEPT, None))}
    if "replicas" in spec:
        spec["scaling"] = {"replicas": spec.pop("replicas")}
    placement = dict(spec["placement"])
    if "gpu" in placement:
        placement["gpus"] = [{"gpu": placement.pop("gpu")}]
    if notes:
        meta["annotations"] = notes
    return {**alpha, "apiVersion": BETA, "metadata": meta, "spec": {**spec, "placement": placement}}


def _objectives(slo: Json, kept: str | None) -> list[Json]:
    known = {"percentile": slo["percentile"]} if "percentile" in slo else {}
    made = [
        {"metric": metric, "withinMs": slo[field], **known}
        for field, metric in METRICS.items()
        if field in slo
    ]
    return json.loads(kept) if kept is not None and _alpha_slo(json.loads(kept)) == slo else made


def _alpha_slo(objectives: list[Json]) -> Json:
    fields = {metric: field for field, metric in METRICS.items()}
    given = [each["percentile"] for each in objectives if "percentile" in each]
    strictest = {"percentile": max(given)} if given else {}
    return {**{fields[each["metric"]]: each["withinMs"] for each in objectives}, **strictest}


def to_alpha(beta: Json) -> Json:
    spec, meta = dict(beta["spec"]), dict(beta["metadata"])
    if "slo" in spec:
        objectives = spec["slo"]["objectives"]
        spec["slo"] = _alpha_slo(objectives)
        if _objectives(spec["slo"], None) != objectives:
            meta["annotations"] = {**meta.get("annotations", {}), KEPT: json.dumps(objectives)}
    if "replicas" in spec.get("scaling", {}):
        spec["replicas"] = spec.pop("scaling")["replicas"]
    placement = dict(spec["placement"])
    if [list(offer) for offer in placement["gpus"]] == [["gpu"]]:
        placement["gpu"] = placement.pop("gpus")[0]["gpu"]
    return {
        **beta, "apiVersion": ALPHA, "metadata": meta, "spec": {**spec, "placement": placement}
    }  # fmt: skip


MS, PERCENT = st.integers(1, 3_600_000), st.integers(1, 99)
COUNT: st.SearchStrategy[Json] = st.just({}) | st.integers(0, 9).map(lambda n: {"replicas": n})
SCALED: st.SearchStrategy[Json] = st.integers(1, 9).map(lambda n: {"scaling": {"min": 1, "max": n}})
ONE = st.sampled_from(("L4", "H100-SXM")).map(lambda gpu: {"gpu": gpu})
SEVERAL = st.integers(1, 9).map(
    lambda price: {"gpus": [{"gpu": "L4", "pricePerHour": str(price)}, {"gpu": "H200"}]}
)
SLO = st.fixed_dictionaries(
    {}, optional={"ttftMs": MS, "itlMs": MS, "e2eMs": MS, "percentile": PERCENT}
).filter(lambda slo: set(slo) & set(METRICS))


@given(SLO, COUNT | SCALED, ONE | SEVERAL)
def test_from_alpha_and_back_nothing_is_lost(slo: Json, count: Json, placement: Json) -> None:
    document = a_manifest(slo=slo, placement=placement, scaling=None)
    document["spec"] |= count
    parse_service(document, "test")
    assert to_alpha(to_beta(document)) == document


OBJECTIVES = st.lists(
    st.fixed_dictionaries(
        {"metric": st.sampled_from(("TTFT", "ITL", "E2E")), "withinMs": MS},
        optional={"percentile": PERCENT},
    ),
    min_size=1, max_size=3, unique_by=lambda each: each["metric"],
)  # fmt: skip


@given(OBJECTIVES, ONE | SEVERAL)
def test_from_beta_and_back_nothing_is_lost_and_alpha_is_valid(
    objectives: list[Json], placement: Json
) -> None:
    document = to_beta(a_manifest(placement=placement))
    document["spec"]["slo"] = {"objectives": objectives}
    alpha = to_alpha(document)
    parse_service(alpha, "test")
    assert to_beta(alpha) == document
