"""The kernels decide what vLLM's own scheduler decides, call by call."""

import json
import subprocess
from operator import itemgetter
from typing import Any

import numpy as np
import pytest

from e2e.real_engine.install import PYTHON, REPOSITORY, installed
from profiler import scheduler
from profiler.scheduler import Limits, State

from .engines import VARIANTS

Json = dict[str, Any]

CONFIG = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 64,
    "intermediate_size": 128, "num_attention_heads": 4, "num_key_value_heads": 4,
    "num_hidden_layers": 1, "vocab_size": 1000, "max_position_embeddings": 4096,
    "torch_dtype": "float16",
}  # fmt: skip
OURS_ALONE = {"overlap_ratio", "prefill_first", "schedule_conservativeness"}
CASES = 25
RULES = (
    "vLLM", "priorities", "whole prompts", "short chunks", "async", "async with priorities",
    "pipeline", "async pipeline",
)  # fmt: skip


def a_case(rng: np.random.Generator, rules: Json) -> tuple[Limits, Json]:
    """Little memory and many requests, some of which begin alike; arrivals by call."""
    bounds = Limits(
        **{
            "max_num_seqs": int(rng.integers(1, 9)),
            "max_num_batched_tokens": int(rng.integers(16, 257)),
            "num_blocks": int(rng.integers(24, 60)),
            "prefix_caching": int(rng.integers(0, 4) > 0),
            **rules,
        }
    )
    requests: list[Json] = []
    for number in range(int(rng.integers(1, 31))):
        prompt, family = int(rng.integers(1, 300)), int(rng.integers(0, 3))
        blocks = prompt // 16
        alike = int(rng.integers(0, blocks + 1))
        hashes = [1000 * family + j for j in range(alike)]
        requests.append(
            {
                "at_call": int(rng.integers(0, 60)),
                "prompt": prompt,
                "output": int(rng.integers(1, 40)),
                "priority": int(rng.integers(0, 3)),
                "hashes": hashes + [10_000 + 100 * number + j for j in range(alike, blocks)],
                "hash_tokens": 16,
            }
        )
    requests.sort(key=itemgetter("at_call"))
    for number, each in enumerate(requests):
        each["arrival"] = float(number)  # ties are nothing that clocks bring about
    limits = {k: v for k, v in bounds._asdict().items() if k not in OURS_ALONE}
    return bounds, {"limits": limits, "requests": requests, "flights": _flights(bounds)}


def _flights(bounds: Limits) -> int:
    return bounds.pipeline_depth + bounds.async_scheduling


def add(state: State, bounds: Limits, number: int, each: Json) -> State:
    ids = np.array(each["hashes"], np.int64)
    state, start = scheduler.with_hashes(state, ids) if bounds.prefix_caching else (state, 0)
    scheduler.enqueue(
        state, bounds, number, each["arrival"], each["prompt"], each["output"], 0,
        each["priority"], start, 16 * ids.size,
    )  # fmt: skip
    return state


def decisions(bounds: Limits, case: Json) -> list[Json]:
    """The same account of the kernels."""
    asked, told = case["requests"], []
    per_hash = 16 if bounds.prefix_caching else 0
    state = scheduler.new_state(bounds, 64, hash_block_tokens=per_hash, longest_tokens=400)
    ended, calls, cursor = scheduler.room_for(bounds), 0, 0
    while True:
        count = state.counters[0]
        while cursor < len(asked) and asked[cursor]["at_call"] <= calls:
            state = add(state, bounds, cursor, asked[cursor])
            cursor += 1
        if count["running"] + count["waiting"] > 0 and scheduler.has_room(state):
            scheduler.begin(state, bounds, 0.0, 1 << 40)
            calls += 1
            batch = state.sequences[state.running[: count["running"]]]
            tokens = {str(q["request"]): int(q["step_tokens"]) for q in batch if q["step_tokens"]}
            told.append(
                {
                    "tokens": tokens,
                    "free": int(count["free_blocks"]),
                    "preempted": int(count["preemptions"]),
                }
            )
        elif count["in_flight"] > 0:
            _, finished = scheduler.commit(state, bounds, 0.0, ended)
            for slot in ended.finished[:finished]:
                scheduler.release(state, slot)
        elif cursor < len(asked):
            calls = asked[cursor]["at_call"]
        else:
            return told


@pytest.fixture(scope="module")
def cases() -> dict[str, list[tuple[Limits, Json]]]:
    rng = np.random.default_rng(2026)
    return {rules: [a_case(rng, VARIANTS[rules]) for _ in range(CASES)] for rules in RULES}


@pytest.fixture(scope="module")
def theirs(
    cases: dict[str, list[tuple[Limits, Json]]], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, list[list[Json]]]:
    """What vLLM decides, all cases in one process: it takes 8 s to load."""
    folder = tmp_path_factory.mktemp("model")
    (folder / "config.json").write_text(json.dumps(CONFIG))
    script = REPOSITORY / "tests" / "profiler" / "vllm_decisions.py"
    asked = [case for rules in RULES for _, case in cases[rules]]
    done = subprocess.run(
        [str(PYTHON), str(script), str(folder)],
        input=json.dumps(asked), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    told = json.loads(done.stdout.splitlines()[-1])
    return {rules: told[i * CASES : (i + 1) * CASES] for i, rules in enumerate(RULES)}


@pytest.mark.vllm
@pytest.mark.skipif(not installed(), reason="no vLLM: run python -m e2e.real_engine.install")
@pytest.mark.parametrize("rules", RULES)
def test_every_call_decides_as_vllm_does(
    rules: str,
    cases: dict[str, list[tuple[Limits, Json]]],
    theirs: dict[str, list[list[Json]]],
) -> None:
    assert sum(calls[-1]["preempted"] for calls in theirs[rules]) > 0
    for (bounds, case), expected in zip(cases[rules], theirs[rules], strict=True):
        ours = decisions(bounds, case)
        for call, (mine, vllms) in enumerate(zip(ours, expected, strict=False)):
            assert mine == vllms, (rules, call, bounds)
        assert len(ours) == len(expected)
