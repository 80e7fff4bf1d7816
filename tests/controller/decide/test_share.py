from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.decide.share import Claim, Grant, GrantReason, share
from profiler.errors import Refused

counts = st.integers(0, 12)
demands = st.one_of(st.none(), st.floats(0, 12), st.sampled_from([float("nan"), -1.0]))


def some_claims(largest: int = 1, **fixed: Any) -> st.SearchStrategy[list[Claim]]:
    fields: dict[str, Any] = {
        "wanted": counts,
        "held": counts,
        "demand": demands,
        "least": st.integers(0, 3),
        "gpus_per_replica": st.integers(1, largest),
        "most": st.one_of(st.none(), counts),
        "priority": st.integers(0, 2),
        "budget_gpus": st.one_of(st.none(), counts),
        **fixed,
    }
    claim = st.builds(Claim, service=st.just(""), **fields)
    return st.lists(claim, max_size=5).map(
        lambda claims: [replace(c, service=f"s{i}") for i, c in enumerate(claims)]
    )


def replicas(grants: tuple[Grant, ...]) -> list[int]:
    return [grant.replicas for grant in grants]


@given(some_claims(4), st.integers(-1, 40), st.one_of(st.none(), counts))
def test_grants_never_exceed_the_pool_the_budgets_or_the_wishes(claims, gpus, budget):
    grants = share(claims, gpus, budget)
    used = sum(g.replicas * c.gpus_per_replica for g, c in zip(grants, claims, strict=True))
    assert used <= max(min(gpus, gpus if budget is None else budget), 0)
    for grant, claim in zip(grants, claims, strict=True):
        assert 0 <= grant.replicas <= max(claim.wanted, claim.least, claim.most or 0)
        if claim.budget_gpus is not None:
            assert grant.replicas * claim.gpus_per_replica <= claim.budget_gpus


@given(some_claims(4), st.integers(0, 40))
def test_no_gpu_is_idle_while_somebody_wants_it_and_could_use_it(claims, gpus):
    grants = share(claims, gpus)
    left = gpus - sum(g.replicas * c.gpus_per_replica for g, c in zip(grants, claims, strict=True))
    for grant, claim in zip(grants, claims, strict=True):
        assert grant.replicas == claim.limits[2] or claim.gpus_per_replica > left


@given(some_claims(), st.integers(0, 40))
def test_a_larger_pool_takes_from_nobody(claims, gpus):
    before, after = share(claims, gpus), share(claims, gpus + 1)
    assert all(a >= b for a, b in zip(replicas(after), replicas(before), strict=True))


@given(some_claims(), st.integers(0, 40))
def test_granting_again_what_was_granted_changes_nothing(claims, gpus):
    # an unknown demand is what is held, so that it has to stay the same
    claims = [replace(claim, demand=claim.load) for claim in claims]
    first = replicas(share(claims, gpus))
    held = [replace(claim, held=count) for claim, count in zip(claims, first, strict=True)]
    assert replicas(share(held, gpus)) == first


@given(some_claims(), st.integers(0, 40))
def test_nobody_has_more_than_its_least_while_a_higher_priority_is_short(claims, gpus):
    grants = share(claims, gpus)
    pairs = list(zip(grants, claims, strict=True))
    short = [c.priority for g, c in pairs if g.replicas < c.limits[1]]
    for grant, claim in pairs:
        if any(priority > claim.priority for priority in short):
            assert grant.replicas <= claim.least


@given(some_claims(priority=st.just(0), least=st.just(0)), counts, st.integers(2, 5))
def test_equal_claims_get_within_one_replica_of_another(claims, wanted, copies):
    equals = [Claim(f"e{i}", wanted, demand=wanted, least=0) for i in range(copies)]
    got = replicas(share([*equals, *claims], 10))[:copies]
    assert max(got) - min(got) <= 1


@given(some_claims(), st.integers(0, 40))
def test_who_gets_all_that_it_wants_is_told_so(claims, gpus):
    for grant, claim in zip(share(claims, gpus), claims, strict=True):
        wanted = max(claim.wanted, claim.least)
        assert (grant.reason is GrantReason.FULL) == (grant.replicas == wanted)
        assert (grant.reason is GrantReason.SPARE) == (grant.replicas > wanted)


def test_the_most_loaded_gets_the_next_replica():
    claims = [Claim("calm", 5, demand=2.1), Claim("busy", 6, demand=5.5)]
    assert share(claims, 8) == (
        Grant("calm", 2, GrantReason.POOL_SHORT),
        Grant("busy", 6, GrantReason.FULL),
    )


def test_noise_in_the_demand_moves_no_replica():
    claims = [Claim("a", 4, held=3, demand=3.1), Claim("b", 4, held=2, demand=3.2)]
    assert replicas(share(claims, 5)) == [3, 2]
    real = [claims[0], replace(claims[1], demand=4.0)]
    assert replicas(share(real, 5)) == [2, 3]


def test_a_lower_priority_gives_way_but_keeps_its_least():
    claims = [Claim("batch", 4, held=4, demand=4), Claim("chat", 5, demand=5, priority=1)]
    batch, chat = share(claims, 6)
    assert batch == Grant("batch", 1, GrantReason.GIVES_WAY)
    assert chat == Grant("chat", 5, GrantReason.FULL)


def test_what_nobody_wants_goes_to_the_most_loaded_that_may_have_it():
    claims = [
        Claim("calm", 1, demand=0.5, most=8),
        Claim("busy", 3, demand=3.0, most=8),
        Claim("fixed", 1, demand=9.0),
        Claim("off", 0, least=0, most=8),
    ]
    assert share(claims, 8) == (
        Grant("calm", 1, GrantReason.FULL),
        Grant("busy", 6, GrantReason.SPARE),
        Grant("fixed", 1, GrantReason.FULL),
        Grant("off", 0, GrantReason.FULL),
    )


def test_an_unknown_demand_keeps_what_is_held():
    claims = [Claim("blind", 4, held=4), Claim("seen", 4, held=1, demand=1.0)]
    assert replicas(share(claims, 5)) == [4, 1]


def test_a_budget_binds_before_the_pool():
    (grant,) = share([Claim("dear", 6, gpus_per_replica=2, budget_gpus=7)], 100)
    assert grant == Grant("dear", 3, GrantReason.AT_BUDGET)


def test_what_is_too_large_for_the_rest_is_passed_over():
    claims = [Claim("large", 2, demand=9, gpus_per_replica=4), Claim("small", 9, demand=1)]
    assert replicas(share(claims, 7)) == [1, 3]


@pytest.mark.parametrize("changes", [{"wanted": -1}, {"gpus_per_replica": 0}, {"held": -2}])
def test_a_claim_that_makes_no_sense_is_refused(changes):
    with pytest.raises(Refused, match=f"chat: {next(iter(changes))}"):
        Claim(**{"service": "chat", "wanted": 1, **changes})
