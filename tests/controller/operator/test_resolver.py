"""Questions are answered once, and shared; refusals too, for a while."""

import asyncio
from typing import Any

import pytest

from controller.api import parse_service
from controller.metrics import Metrics
from controller.operator.instruments import Instruments
from controller.operator.resolver import Resolver
from controller.service import answer_to
from profiler.errors import Refused
from tests.controller.builders import a_manifest


class Counting:
    """Counts the searches."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.searches = 0

        def counted(*asked: Any) -> Any:
            self.searches += 1
            return answer_to(*asked)

        monkeypatch.setattr("controller.operator.resolver.answer_to", counted)
        self.now_s = 0.0
        self.resolver = Resolver(Instruments(Metrics(tuple)), lambda: self.now_s)

    async def resolve(self, **changes: Any) -> Any:
        return await self.resolver.resolve(parse_service(a_manifest(**changes), "t"), {}, None)


async def test_services_that_ask_the_same_share_one_search(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    counting = Counting(monkeypatch)
    made = await asyncio.gather(
        *(counting.resolve(name=f"s{i}", scaling={"min": 1, "max": 2 + i}) for i in range(5))
    )
    assert counting.searches == 1
    assert [service.bounds.high for service in made] == [2, 3, 4, 5, 6]
    assert len({service.name for service in made}) == 5
    await counting.resolve(slo={"ttftMs": 2000})
    assert counting.searches == 2


async def test_a_refusal_is_remembered_for_ten_minutes(monkeypatch: pytest.MonkeyPatch) -> None:
    counting = Counting(monkeypatch)
    for at_s, searches in ((0.0, 1), (60.0, 1), (700.0, 2), (760.0, 2)):
        counting.now_s = at_s
        with pytest.raises(Refused, match="no-such"):
            await counting.resolve(model={"uri": "no-such/model"})
        assert counting.searches == searches
