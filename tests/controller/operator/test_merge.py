"""A template laid over a Pod: as `kubectl patch --type=strategic` does."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from controller.operator.merge import merged

BASE = {
    "spec": {
        "containers": [{"name": "engine", "image": "a", "env": [{"name": "X", "value": "1"}]}],
        "dnsConfig": {"searches": ["a"]},
        "tolerations": [{"key": "a"}],
    }
}


def over(**spec: Any) -> Any:
    return merged(BASE, {"spec": spec})["spec"]


def test_lists_with_names_are_merged_item_by_item() -> None:
    changes = [{"name": "engine", "env": [{"name": "Y", "value": "2"}]}, {"name": "side"}]
    engine, side = over(containers=changes)["containers"]
    assert engine == {
        "name": "engine", "image": "a",
        "env": [{"name": "X", "value": "1"}, {"name": "Y", "value": "2"}],
    }  # fmt: skip
    assert side == {"name": "side"}


def test_other_lists_are_replaced_and_null_takes_away() -> None:
    assert over(dnsConfig={"searches": ["b"]})["dnsConfig"] == {"searches": ["b"]}
    assert "tolerations" not in over(tolerations=None)


def test_tolerations_are_added() -> None:
    assert over(tolerations=[{"key": "b"}])["tolerations"] == [{"key": "a"}, {"key": "b"}]


def test_an_item_can_be_deleted_by_its_name() -> None:
    env = [{"name": "X", "$patch": "delete"}]
    assert over(containers=[{"name": "engine", "env": env}])["containers"][0]["env"] == []


JSON = st.recursive(
    st.integers() | st.text(max_size=3) | st.booleans(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(("name", "env", "x")), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(JSON, JSON)
def test_anything_can_be_laid_over_anything_and_twice_is_once(base: Any, on_top: Any) -> None:
    once = merged(base, on_top)
    assert merged(base, {}) == ({} if not isinstance(base, dict) else base)
    assert merged(once, on_top) == once
