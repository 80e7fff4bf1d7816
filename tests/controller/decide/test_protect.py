"""From counts to actions; a fleet is written as one letter a replica (see builders)."""

import pytest

from controller.decide.protect import plan
from controller.decide.types import Action, Admit, Drain, Reason, Remove, Start, Withdraw
from controller.observation import ReplicaId
from tests.controller.builders import an_observation


def actions(fleet: str, serving: int, standby: int, *, old: str = "") -> tuple[Action, ...]:
    return plan(an_observation(fleet, old=old), serving, standby).actions


def reasons(fleet: str, serving: int, standby: int, *, old: str = "") -> tuple[Reason, ...]:
    return plan(an_observation(fleet, old=old), serving, standby).reasons


def admit(name: str) -> Admit:
    return Admit(ReplicaId(name))


def remove(name: str) -> Remove:
    return Remove(ReplicaId(name))


def drain(name: str) -> Drain:
    return Drain(ReplicaId(name))


def withdraw(name: str) -> Withdraw:
    return Withdraw(ReplicaId(name))


def test_what_is_there_as_wanted_needs_no_action() -> None:
    assert plan(an_observation("SSb"), 2, 1).actions == ()
    assert plan(an_observation("SSb"), 2, 1).reasons == ()


def test_failover_admits_removes_and_restores_in_one_decision() -> None:
    assert actions("FSb", 2, 1) == (admit("b2"), remove("F0"), Start(1))
    assert reasons("FSb", 2, 1) == (
        Reason.REPLICA_FAILED,
        Reason.STANDBY_ADMITTED,
        Reason.STANDBY_RESTORED,
    )


def test_a_wedged_replica_is_replaced_as_a_failed_one_is() -> None:
    assert actions("WSb", 2, 1) == (admit("b2"), remove("W0"), Start(1))
    assert reasons("WSb", 2, 1)[0] is Reason.REPLICA_WEDGED


def test_the_standby_is_admitted_before_anything_is_taken_away() -> None:
    found = actions("FWbbS", 3, 1)
    admitted = [i for i, action in enumerate(found) if isinstance(action, Admit)]
    taken = [i for i, action in enumerate(found) if not isinstance(action, Admit)]
    assert len(admitted) == 2
    assert max(admitted) < min(taken)


def test_without_a_standby_a_failed_replica_is_started_anew() -> None:
    assert actions("FS", 2, 0) == (remove("F0"), Start(1))
    assert reasons("FS", 2, 0) == (Reason.REPLICA_FAILED,)


def test_a_failed_standby_is_started_anew() -> None:
    assert actions("SF", 1, 1) == (remove("F1"), Start(1))
    assert reasons("SF", 1, 1) == (Reason.REPLICA_FAILED, Reason.STANDBY_RESTORED)


def test_scaling_out_admits_the_standby_at_once_and_starts_what_was_used_up() -> None:
    assert actions("Sb", 2, 1) == (admit("b1"), Start(1))
    assert actions("Sb", 4, 1) == (admit("b1"), Start(3))


@pytest.mark.parametrize("fleet", ["Ss", "Sp"])
def test_replicas_that_start_are_counted_once(fleet: str) -> None:
    assert actions(fleet, 2, 0) == ()
    assert actions(fleet, 1, 1) == ()
    assert actions(fleet, 2, 1) == (Start(1),)


def test_a_draining_replica_counts_for_nothing() -> None:
    assert actions("Sd", 1, 1) == (Start(1),)
    assert actions("Sdb", 1, 1) == ()


def test_the_oldest_standby_is_admitted_first() -> None:
    assert actions("Sbb", 2, 1) == (admit("b1"),)


def test_surplus_is_given_up_starting_first_then_standing_by_then_serving() -> None:
    assert actions("SSbs", 2, 1) == (remove("s3"),)
    assert actions("SSbs", 2, 0) == (remove("s3"), remove("b2"))
    assert actions("SSbs", 1, 0) == (remove("s3"), remove("b2"), drain("S1"))


def test_among_equals_the_youngest_is_given_up() -> None:
    assert actions("SSbb", 2, 1) == (remove("b3"),)
    assert actions("SSSS", 2, 0) == (drain("S3"), drain("S2"))


def test_a_serving_replica_too_many_becomes_the_standby_that_is_missing() -> None:
    assert actions("SS", 1, 1) == (withdraw("S1"),)
    assert actions("SSS", 1, 1) == (withdraw("S1"), drain("S2"))


def test_zero_replicas_drains_what_serves_and_removes_the_rest() -> None:
    assert actions("SSbsF", 0, 0) == (
        remove("F4"),
        remove("s3"),
        remove("b2"),
        drain("S1"),
        drain("S0"),
    )


def test_nothing_there_starts_everything() -> None:
    assert actions("", 2, 1) == (Start(3),)
    assert reasons("", 2, 1) == ()


def test_replicas_of_a_former_configuration_serve_until_the_new_ones_are_ready() -> None:
    assert actions("", 2, 0, old="SS") == (Start(2),)
    assert actions("ss", 2, 0, old="SS") == ()
    assert actions("bs", 2, 0, old="SS") == (admit("b0"), drain("oS0"))
    assert actions("Sb", 2, 0, old="dS") == (admit("b1"), drain("oS1"))
    assert actions("SS", 2, 0, old="dd") == ()


def test_a_rollout_names_itself_while_something_is_retired() -> None:
    assert Reason.ROLLING_OUT in reasons("bs", 2, 0, old="SS")
    assert Reason.ROLLING_OUT not in reasons("ss", 2, 0, old="SS")


def test_a_rollout_never_starts_or_waits_for_the_former_configuration() -> None:
    assert actions("s", 1, 0, old="Ss") == (remove("os1"),)
    assert actions("s", 1, 0, old="Sb") == (drain("ob1"),)


def test_a_former_standby_helps_out_while_the_new_ones_start() -> None:
    assert actions("s", 1, 0, old="Fb") == (remove("oF0"), admit("ob1"))
    assert actions("s", 1, 0, old="Wb") == (remove("oW0"), admit("ob1"))


def test_a_wedged_replica_of_a_former_configuration_is_ended_once() -> None:
    found = actions("SS", 2, 0, old="W")
    assert found == (remove("oW0"),)
