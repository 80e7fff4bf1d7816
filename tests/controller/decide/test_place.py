"""Replicas on several GPU types: by cost, within what there is, and never fewer than carry it."""

from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.decide import Admit, Drain, Reason, Start, State, decide
from controller.decide.place import Kind, Place, carries, kinds_of, place, shun
from controller.decide.types import Shunned
from controller.observation import Observation, Phase
from controller.service import Bounds, Service
from tests.controller.builders import a_service, a_sighting, an_observation

OWN, SMALL, LARGE = Kind("", granted=None), Kind("T4", 0.5), Kind("H100", 3.0, gpus=2)


def counts(units: int, *kinds: Kind, least: int = 0, most: int = 99, **terms: int) -> list[int]:
    return [p.wanted for p in place(units, kinds, least=least, most=most, **terms)]


def test_the_first_type_takes_all_while_it_has_room() -> None:
    assert counts(5, OWN, SMALL) == [5, 0]
    assert counts(0, OWN, SMALL) == [0, 0]


def test_what_is_not_granted_goes_to_the_next_by_what_it_carries_there() -> None:
    assert counts(5, replace(OWN, granted=3), SMALL) == [3, 4]
    assert counts(5, replace(OWN, granted=0), LARGE) == [0, 2]
    assert counts(5, replace(OWN, granted=3), replace(SMALL, granted=1), LARGE) == [3, 1, 1]


def test_a_replica_that_no_machine_takes_is_asked_for_still_and_carried_elsewhere() -> None:
    assert counts(5, replace(OWN, unplaced=2), SMALL) == [5, 4]
    assert counts(5, replace(OWN, unplaced=2)) == [5]


def test_a_budget_of_gpus_holds_over_all_types() -> None:
    assert counts(5, OWN, LARGE, budget_gpus=4) == [4, 0]
    assert counts(9, replace(OWN, granted=2), LARGE, budget_gpus=5) == [2, 1]


def test_fewest_and_most_replicas_hold_over_all_types() -> None:
    assert counts(3, replace(OWN, granted=0), LARGE, least=2) == [0, 2]
    assert counts(9, replace(OWN, granted=2), SMALL, most=6) == [2, 4]


def test_what_is_ready_serves_until_what_is_wanted_is() -> None:
    ready = place(2, (OWN, replace(SMALL, ready=3)), least=1, most=9)
    assert ready == (Place("", 2, 2), Place("T4", 0, 3))
    ready = place(2, (replace(OWN, ready=1), replace(SMALL, ready=3)), least=1, most=9)
    assert ready == (Place("", 2, 2), Place("T4", 0, 2))
    ready = place(2, (replace(OWN, ready=2), replace(SMALL, ready=3)), least=1, most=9)
    assert ready == (Place("", 2, 2), Place("T4", 0, 0))


KINDS = st.builds(
    Kind,
    st.just("x"),
    worth=st.sampled_from((0.25, 0.5, 1.0, 1.7, 3.0)),
    gpus=st.integers(1, 4),
    granted=st.none() | st.integers(0, 6),
    ready=st.integers(0, 4),
    unplaced=st.integers(0, 2),
)


@given(st.integers(0, 12), st.lists(KINDS, max_size=3), st.none() | st.integers(0, 20))
def test_limits_hold_and_all_is_carried_where_there_is_room(
    units: int, others: Sequence[Kind], budget: int | None
) -> None:
    kinds = (OWN, *others)
    places = place(units, kinds, least=1, most=20, budget_gpus=budget)
    there = [max(p.wanted - kind.unplaced, 0) for p, kind in zip(places, kinds, strict=True)]
    assert sum(there) <= 20
    if budget is not None:
        assert sum(n * kind.gpus for n, kind in zip(there, kinds, strict=True)) <= budget
    else:
        assert carries(places, kinds) >= units - 1e-9  # the first type has no limit here
    for p, kind in zip(places, kinds, strict=True):
        assert kind.granted is None or p.wanted <= kind.granted
        assert p.wanted <= p.serving <= max(p.wanted, kind.ready)


# --- decide, with fallbacks ---


def two_types(**changes: object) -> Service:
    service = a_service(bounds=Bounds(2, 6), standbys=0)
    return replace(service, fallbacks=(replace(service, gpu="T4"),), **changes)  # type: ignore[arg-type]


def seen(own: str, other: str = "", *, age_s: float = 10.0) -> Observation:
    """Replicas by letter on the service's own type, and on the fallback."""
    phases = {"S": Phase.SERVING, "b": Phase.STANDBY, "p": Phase.PENDING, "s": Phase.STARTING}
    made = [
        a_sighting(f"{gpu or 'own'}-{letter}{i}", phases[letter], created_s=-age_s + i, gpu=gpu)
        for gpu, letters in (("", own), ("T4", other))
        for i, letter in enumerate(letters)
    ]
    return an_observation(service=two_types(), sightings=tuple(made), worths=(("T4", 0.5),))


def test_pods_that_find_no_machine_start_on_the_fallback_once_a_start_should_be_over() -> None:
    made, _ = decide(seen("pp", age_s=50.0), State(serving=2), 0.0)
    assert made.actions == ()
    made, _ = decide(seen("pp", age_s=90.0), State(serving=2), 0.0)
    assert made.actions == (Start(4, "T4"),)
    assert Reason.FALLBACK_USED in made.reasons


def test_the_fallback_goes_once_the_first_type_is_ready_and_not_before() -> None:
    made, after = decide(seen("ss", "SSSS"), State(serving=2), 0.0)
    assert not [action for action in made.actions if isinstance(action, Drain)]
    assert after.serving == 2
    made, after = decide(seen("bb", "SSSS"), State(serving=2), 0.0)
    assert [type(action) for action in made.actions] == [Admit] * 2 + [Drain] * 4
    assert after.serving == 2


def test_a_replica_on_a_fallback_counts_for_what_it_carries() -> None:
    look = seen("S", "SS")
    assert look.worth(Phase.SERVING) == pytest.approx(2.0)
    assert [kind.ready for kind in kinds_of(look, 0.0)] == [1, 2]


def test_new_replicas_keep_away_for_an_hour_from_where_one_turned_out_slow() -> None:
    slow = a_sighting("r1", Phase.SERVING, node="node-7")
    look = an_observation(
        service=a_service(bounds=Bounds(2, 5), standbys=0),
        sightings=(replace(slow, unfit=True), a_sighting("r2", Phase.SERVING, node="node-8")),
    )
    made, after = decide(look, State(serving=2), 100.0)
    assert made.actions == (Start(1, avoid=("node-7",)),)
    assert after.shunned == (Shunned("node-7", 100.0),)
    sound = an_observation()
    assert shun(after, sound, 3000.0) == after.shunned
    assert shun(after, sound, 3800.0) == ()
