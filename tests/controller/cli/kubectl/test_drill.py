"""`kubectl whaleflux drill`: what it deletes, what it refuses, and what it reports."""

import json

import pytest

from profiler.errors import Refused
from tests.controller.cli.kubectl.fake_cluster import FakeCluster


def a_pair(cluster: FakeCluster) -> None:
    """One serves, one stands by."""
    cluster.add_service()
    cluster.add_pod("chat-1", "serving")
    cluster.add_pod("chat-2", "standby")


def test_a_standby_takes_over_and_the_time_is_told(cluster: FakeCluster) -> None:
    a_pair(cluster)
    cluster.on_delete = lambda c: c.add_pod("chat-2", "serving")
    done = cluster.run("drill", "chat", "--yes", "-o", "json")
    report = json.loads(done.output)
    assert done.exit_code == 0
    assert cluster.deleted == [("chat-1", {"gracePeriodSeconds": 0})]
    assert 0 < report.pop("backAfterSeconds") < 10
    assert report == {
        "namespace": "team", "name": "chat", "deleted": "chat-1", "servingBefore": 1,
        "standbyBefore": 1, "servingLeast": 0, "timeoutSeconds": 300.0, "tookOver": ["chat-2"],
        "started": [],
    }  # fmt: skip


def test_a_new_replica_is_no_standby(cluster: FakeCluster) -> None:
    cluster.add_service()
    cluster.add_pod("chat-1", "serving")
    cluster.on_delete = lambda c: c.add_pod("chat-9", "serving")
    text = cluster.run("drill", "chat", "--yes", "--force").output
    assert "no standby took over; started: chat-9" in text
    assert "1 serving again after" in text


def test_not_back_in_time_is_exit_code_1(cluster: FakeCluster) -> None:
    a_pair(cluster)
    done = cluster.run("drill", "chat", "--yes", "--timeout", "1")
    assert done.exit_code == 1
    assert "not 1 serving again within 1 s" in done.output


def test_the_replica_may_be_chosen_among_those_that_serve(cluster: FakeCluster) -> None:
    a_pair(cluster)
    cluster.add_pod("chat-3", "serving")
    cluster.on_delete = lambda c: c.add_pod("chat-2", "serving")
    cluster.run("drill", "chat", "--yes", "--replica", "chat-3")
    assert [name for name, _ in cluster.deleted] == ["chat-3"]
    with pytest.raises(Refused, match="chat-9 does not serve: take one of chat-1, chat-2"):
        cluster.run("drill", "chat", "--yes", "--replica", "chat-9")


def test_none_left_to_serve_is_refused(cluster: FakeCluster) -> None:
    cluster.add_service()
    with pytest.raises(Refused, match="no replica serves"):
        cluster.run("drill", "chat", "--yes", "--force")
    cluster.add_pod("chat-1", "serving")
    with pytest.raises(Refused, match=r"there is no standby: set resilience\.standbys"):
        cluster.run("drill", "chat", "--yes")
    assert not cluster.deleted


@pytest.mark.parametrize("verb", ["watch", "delete"])
def test_who_lacks_a_right_is_told_before_anything_is_deleted(
    cluster: FakeCluster, verb: str
) -> None:
    a_pair(cluster)
    cluster.denied = verb
    with pytest.raises(Refused, match=f"you may not {verb} pods in namespace team"):
        cluster.run("drill", "chat", "--yes")
    assert not cluster.deleted


@pytest.mark.parametrize("answer", ["n\n", "", None])
def test_without_a_yes_nothing_is_deleted(cluster: FakeCluster, answer: str | None) -> None:
    a_pair(cluster)
    with pytest.raises(Refused, match="nothing was deleted"):
        cluster.run("drill", "chat", answer=answer)
    assert not cluster.deleted


def test_a_yes_at_the_prompt_is_enough(cluster: FakeCluster) -> None:
    a_pair(cluster)
    cluster.on_delete = lambda c: c.add_pod("chat-2", "serving")
    done = cluster.run("drill", "chat", answer="y\n")
    assert "standby chat-2 took over" in done.output
