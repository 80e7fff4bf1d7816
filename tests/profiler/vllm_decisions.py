"""What vLLM's own scheduler decides, call by call; run by the Python that vLLM is installed for.

    python vllm_decisions.py MODEL_FOLDER < cases.json > decisions.json

No model runs: every sequence whose tokens are all scheduled samples one, a stop token last.
Steps end in the order they were scheduled, when no more may be under way, as in vLLM's
`EngineCore.step_with_batch_queue`.
"""

# mypy: disable-error-code="import-not-found"
import json
import os
import sys
from collections.abc import Iterator
from typing import Any

os.environ |= {"VLLM_LOGGING_LEVEL": "ERROR", "HF_HUB_OFFLINE": "1"}

import torch
from vllm.config import CacheConfig, DeviceConfig, ModelConfig, SchedulerConfig, VllmConfig
from vllm.sampling_params import SamplingParams
from vllm.utils.hashing import sha256
from vllm.v1.core.kv_cache_utils import get_request_block_hasher, init_none_hash
from vllm.v1.core.sched.async_scheduler import AsyncScheduler
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.kv_cache_interface import FullAttentionSpec, KVCacheConfig, KVCacheGroupSpec
from vllm.v1.outputs import ModelRunnerOutput
from vllm.v1.request import Request
from vllm.v1.structured_output import StructuredOutputManager

STOP = 7
Json = dict[str, Any]


def make_scheduler(model: str, limits: Json) -> Scheduler:
    asynchronous = bool(limits["async_scheduling"])
    config = VllmConfig(
        model_config=ModelConfig(model=model, skip_tokenizer_init=True),
        scheduler_config=SchedulerConfig(
            max_num_seqs=limits["max_num_seqs"],
            max_num_batched_tokens=limits["max_num_batched_tokens"],
            max_model_len=4096 if limits["chunked_prefill"] else limits["max_num_batched_tokens"],
            enable_chunked_prefill=bool(limits["chunked_prefill"]),
            long_prefill_token_threshold=limits["long_prefill_token_threshold"],
            policy="priority" if limits["priority_scheduling"] else "fcfs",
            async_scheduling=asynchronous,
            is_encoder_decoder=False,
        ),
        cache_config=CacheConfig(
            block_size=limits["block_size"],
            enable_prefix_caching=bool(limits["prefix_caching"]),
        ),
        device_config=DeviceConfig("cpu"),
    )
    blocks = limits["num_blocks"] + 1  # one is never handed out
    config.cache_config.num_gpu_blocks = blocks
    spec = FullAttentionSpec(
        block_size=limits["block_size"], num_kv_heads=1, head_size=1, dtype=torch.float32
    )
    made = (AsyncScheduler if asynchronous else Scheduler)(
        vllm_config=config,
        kv_cache_config=KVCacheConfig(blocks, [], [KVCacheGroupSpec(["layer"], spec)]),
        structured_output_manager=StructuredOutputManager(config),
        block_size=limits["block_size"],
    )
    if isinstance(made, AsyncScheduler):  # what pipeline_parallel_size makes of it on GPUs
        made.use_v2_model_runner = limits["pipeline_depth"] > 1
        made.decode_stagger = limits["pipeline_depth"]
    assert isinstance(made, Scheduler)
    return made


def make_request(number: int, asked: Json, block_size: int) -> Request:
    """Tokens are alike where hashes are, and where they are not, nobody else's."""
    size, prompt = asked["hash_tokens"], []
    for place in range(asked["prompt"]):
        which = place // size if size else len(asked["hashes"])
        known = which < len(asked["hashes"])
        prompt.append(100 + (asked["hashes"][which] if known else 10**7 + number) * 512 + place)
    return Request(
        request_id=f"{number:06}",
        prompt_token_ids=prompt,
        sampling_params=SamplingParams(max_tokens=10_000, stop_token_ids=[STOP]),
        pooling_params=None,
        arrival_time=asked["arrival"],
        priority=asked["priority"],
        block_hasher=get_request_block_hasher(block_size, sha256),
    )


def answer(requests: list[Request], asked: list[Json], samples: dict[str, bool]) -> Any:
    """What the model runner returns for a step."""
    made = []
    for name, sampled in samples.items():
        number = int(name)
        place = requests[number].num_output_tokens
        last = place + 1 >= asked[number]["output"]
        token = STOP if last else 10**12 + number * 10**5 + place
        made.append([token] if sampled else [])
    return ModelRunnerOutput(
        req_ids=list(samples),
        req_id_to_index={name: i for i, name in enumerate(samples)},
        sampled_token_ids=made,
    )


def decisions(model: str, case: Json) -> Iterator[Json]:
    """One entry for each call of `schedule`: tokens by request, free blocks, preemptions."""
    limits, asked = case["limits"], case["requests"]
    scheduler = make_scheduler(model, limits)
    requests = [make_request(n, each, limits["block_size"]) for n, each in enumerate(asked)]
    flights: list[tuple[Any, dict[str, bool]]] = []
    calls = cursor = 0
    while True:
        while cursor < len(asked) and asked[cursor]["at_call"] <= calls:
            scheduler.add_request(requests[cursor])
            cursor += 1
        if scheduler.get_num_unfinished_requests() and len(flights) < case["flights"]:
            step = scheduler.schedule()
            calls += 1
            tokens = step.num_scheduled_tokens
            samples = {name: not scheduler.requests[name].is_prefill_chunk for name in tokens}
            flights.append((step, samples))
            yield {
                "tokens": {str(int(name)): count for name, count in tokens.items()},
                "free": scheduler.kv_cache_manager.block_pool.get_num_free_blocks(),
                "preempted": sum(request.num_preemptions for request in requests),
            }
        elif flights:
            step, samples = flights.pop(0)
            scheduler.update_from_output(step, answer(requests, asked, samples))
        elif cursor < len(asked):
            calls = asked[cursor]["at_call"]
        else:
            return


def main() -> None:
    init_none_hash(sha256)
    cases = json.load(sys.stdin)
    json.dump([list(decisions(sys.argv[1], case)) for case in cases], sys.stdout)


if __name__ == "__main__":
    main()
