"""A plain-object engine with vLLM's and SGLang's scheduling rules: the kernels' oracle.

Written from the rules, not from the kernels: lists and objects, no slots, no arrays.
"""

from dataclasses import dataclass, field

import numpy as np

from profiler.scheduler import Limits, Shape
from profiler.step_cost import step_s
from profiler.trace import Trace

from .engines import COST

Name = tuple[object, ...]


@dataclass(eq=False)
class Block:
    name: Name | None = None
    holders: int = 0


@dataclass(eq=False)
class Request:
    number: int
    arrival_s: float
    prompt: int
    output: int
    priority: int = 0
    prefix: int = 0
    hashes: tuple[int, ...] = ()
    hash_tokens: int = 0
    generated: int = 0
    computed: int = 0
    pending: int = 0
    flying: int = 0
    next_step: int = 0
    blocks: list[Block] = field(default_factory=list)
    named: int = 0
    scheduled_s: float | None = None
    hit: int = 0
    first_token_s: float | None = None
    last_token_s: float | None = None
    preemptions: int = 0
    kept_rule: tuple[int, int, int] | None = None
    """(blocks handed out, blocks free, blocks held) when it was preempted."""

    @property
    def total(self) -> int:
        return self.prompt + self.generated

    def name(self, place: int, block_size: int) -> Name:
        """A full block is known by the hash that covers it, or belongs to the request."""
        begin, end = place * block_size, (place + 1) * block_size
        if end > min(len(self.hashes) * self.hash_tokens, self.prompt):
            return ("own", self.number, place)
        which = (end - 1) // self.hash_tokens
        return ("hash", self.hashes[which], max(begin, which * self.hash_tokens), end)


@dataclass
class NaiveCache:
    """Blocks and where they are: held, or free in the order in which they are handed out."""

    limits: Limits
    exact: bool
    free: list[Block] = field(default_factory=list)
    known: dict[Name, list[Block]] = field(default_factory=dict)
    handed_out: int = 0

    def __post_init__(self) -> None:
        self.free = [Block() for _ in range(self.limits.num_blocks)]

    def size(self, tokens: int) -> int:
        return -(-tokens // self.limits.block_size)

    def take(self, request: Request, tokens: int) -> None:
        """Give new blocks until `tokens` fit."""
        while len(request.blocks) < self.size(tokens):
            block = self.free.pop(0)
            if block.name is not None:
                self.known[block.name].remove(block)
            block.name, block.holders = None, 1
            request.blocks.append(block)
            self.handed_out += 1

    def name(self, request: Request, tokens: int) -> None:
        """Make full blocks findable."""
        while self.exact and (request.named + 1) * self.limits.block_size <= tokens:
            block, name = (
                request.blocks[request.named],
                request.name(request.named, self.limits.block_size),
            )
            if block.name is None:
                block.name = name
                self.known.setdefault(name, []).append(block)
            request.named += 1

    def found(self, request: Request) -> list[Block]:
        """The blocks of its beginning that are still there; one token is always computed."""
        blocks: list[Block] = []
        if not self.limits.prefix_caching:
            return blocks
        while (len(blocks) + 1) * self.limits.block_size < request.total:
            same = self.known.get(request.name(len(blocks), self.limits.block_size))
            if not same:
                break
            blocks.append(same[0])
        return blocks

    def hit_tokens(self, request: Request) -> int:
        if self.exact:
            return len(self.found(request)) * self.limits.block_size
        if not self.limits.prefix_caching:
            return 0
        hit = request.prefix
        if request.kept_rule is not None:
            handed_out, ahead, held = request.kept_rule
            evicted = max(self.handed_out - handed_out - ahead, 0)
            hit = min(max(held - evicted, 0) * self.limits.block_size, request.computed)
            if self.limits.prefill_first:
                hit = min(hit, request.prompt)
        hit = min(hit, request.total - 1)
        return hit // self.limits.block_size * self.limits.block_size

    def wanted(self, request: Request, tokens: int) -> int:
        """Free blocks that go when it is admitted with `tokens`."""
        shared = [b for b in self.found(request) if b.holders] if self.exact else []
        return self.size(tokens) - len(shared)

    def admit(self, request: Request, tokens: int) -> None:
        if self.exact:
            request.blocks = self.found(request)
            for block in request.blocks:
                if block.holders == 0:
                    self.free.remove(block)
                block.holders += 1
            request.named = len(request.blocks)
        self.take(request, tokens)

    def let_go(self, request: Request) -> None:
        request.kept_rule = (self.handed_out, len(self.free), len(request.blocks))
        gone = []
        for block in reversed(request.blocks):
            block.holders -= 1
            if block.holders == 0:
                gone.append(block)
        nameless = [block for block in gone if block.name is None]
        self.free = nameless + self.free + [block for block in gone if block.name is not None]
        request.blocks, request.named = [], 0


@dataclass
class Flight:
    parts: list[tuple[Request, int, bool]]
    """Request, its computed tokens after the step, whether it samples."""
    end_s: float


@dataclass
class NaiveEngine:
    limits: Limits
    exact: bool = False
    """Whether requests bring hashes."""
    waiting: list[Request] = field(default_factory=list)
    running: list[Request] = field(default_factory=list)
    flights: list[Flight] = field(default_factory=list)
    stages: list[float] = field(default_factory=list)
    scheduled: int = 0
    ratio: float = 0.0
    chunked: Request | None = None
    full: bool = False

    def __post_init__(self) -> None:
        self.cache = NaiveCache(self.limits, self.exact)
        self.stages = [0.0] * self.limits.pipeline_depth
        self.rest()

    def rest(self) -> None:
        self.full = False
        self.ratio = min(0.7 * self.limits.schedule_conservativeness, 1.0)

    # --- the queue ---

    def enqueue(self, request: Request) -> None:
        self.waiting.append(request)
        self.sort()

    def sort(self) -> None:
        if self.limits.priority_scheduling:
            self.waiting.sort(key=lambda r: (r.priority, r.arrival_s, r.number))

    def send_back(self, request: Request, place: int) -> None:
        self.running.remove(request)
        self.cache.let_go(request)
        request.pending = 0
        request.preemptions += 1
        self.waiting.insert(place, request)
        self.sort()

    def join(self, hit: int, tokens: int, now_s: float) -> Request:
        request = self.waiting.pop(0)
        self.cache.admit(request, hit + tokens)
        request.computed = hit
        if request.scheduled_s is None:
            request.scheduled_s, request.hit = now_s, hit
        self.running.append(request)
        return request

    # --- vLLM ---

    def chunk(self, tokens: int) -> int:
        longest = self.limits.long_prefill_token_threshold
        others = len(self.running) + len(self.waiting) > 1
        return min(tokens, longest) if longest and others else tokens

    def wants(self, request: Request) -> int:
        if not self.limits.async_scheduling:
            return request.total - request.computed
        if self.scheduled < request.next_step:
            return 0
        return request.total + request.pending - request.computed

    def victim(self) -> Request:
        if self.limits.priority_scheduling:
            return max(self.running, key=lambda r: (r.priority, r.arrival_s))
        return self.running[-1]

    def vllm(self, now_s: float) -> dict[Request, int]:
        budget = self.limits.max_num_batched_tokens
        given: dict[Request, int] = {}
        preempted = False
        for request in list(self.running):
            if request not in self.running:
                continue
            if budget == 0:
                break
            tokens = min(self.chunk(self.wants(request)), budget)
            if tokens == 0:
                continue
            size = self.cache.size(request.computed + tokens)
            while request in self.running and size - len(request.blocks) > len(self.cache.free):
                victim = self.victim()
                budget += given.pop(victim, 0)
                self.send_back(victim, 0)
                preempted = True
            if request not in self.running:
                break
            self.cache.take(request, request.computed + tokens)
            self.cache.name(request, min(request.computed + tokens, request.total))
            given[request] = tokens
            budget -= tokens
        if not preempted:
            self.admit(given, budget, now_s)
        return given

    def admit(self, given: dict[Request, int], budget: int, now_s: float) -> None:
        """Take in who waits, but for those who still await a token."""
        aside: list[Request] = []
        while self.waiting and budget > 0 and len(self.running) < self.limits.max_num_seqs:
            request = self.waiting[0]
            if request.flying:
                aside.append(self.waiting.pop(0))
                continue
            hit = self.cache.hit_tokens(request)
            tokens = self.chunk(request.total - hit)
            if not self.limits.chunked_prefill and tokens > budget:
                break
            if self.cache.wanted(request, request.total) > len(self.cache.free):
                break
            tokens = min(tokens, budget)
            self.join(hit, tokens, now_s)
            self.cache.name(request, hit + tokens)
            given[request] = tokens
            budget -= tokens
        self.waiting[:0] = aside
        self.sort()

    # --- SGLang ---

    def answer(self, request: Request) -> int:
        return min(request.output - request.generated, 4096)

    def pages(self, tokens: int) -> int:
        return self.cache.size(tokens) * self.limits.block_size

    def sglang(self, now_s: float) -> dict[Request, int]:
        return self.prefill(now_s) or self.decode()

    def prefill(self, now_s: float) -> dict[Request, int]:
        page, budget = self.limits.block_size, self.limits.max_num_batched_tokens
        others = [request for request in self.running if request is not self.chunked]
        room = len(self.cache.free) * page - self.ratio * sum(map(self.answer, others))
        given: dict[Request, int] = {}
        if self.chunked is not None:
            request, self.full = self.chunked, False
            rest = self.wants(request)
            given[request] = min(rest, budget)
            self.cache.take(request, request.computed + given[request])
            room -= self.pages(given[request]) + page
            budget -= self.pages(given[request])
            if given[request] == rest:
                self.chunked = None
                room -= self.answer(request)
        while self.waiting and budget > 0 and room > 0 and not self.full:
            request = self.waiting[0]
            if request.flying:
                break
            hit = self.cache.hit_tokens(request)
            pinned = self.cache.wanted(request, hit) * page
            rest, answer = request.total - hit, self.answer(request)
            crowded = len(self.running) == self.limits.max_num_seqs
            if crowded or pinned + rest + answer + page >= room:
                self.full = True
                break
            tokens = self.cut(hit, rest, budget, not given)
            if tokens <= 0:
                break
            given[self.join(hit, tokens, now_s)] = tokens
            if tokens < rest:
                self.chunked, answer = request, 0
            room -= pinned + self.pages(tokens) + page + answer
            budget -= self.pages(tokens)
        return given

    def cut(self, hit: int, rest: int, budget: int, first: bool) -> int:
        """How much of a prompt the step computes."""
        page = self.limits.block_size
        if not self.limits.chunked_prefill:
            return rest if first or self.pages(rest) < budget else 0
        return (
            rest if self.pages(rest) <= budget else min(rest, (hit + budget) // page * page - hit)
        )

    def decode_blocks(self) -> int:
        sizes = [(r, self.cache.size(r.computed + self.wants(r))) for r in self.running]
        return sum(size - len(request.blocks) for request, size in sizes)

    def decode(self) -> dict[Request, int]:
        first = min(0.7 * self.limits.schedule_conservativeness, 1.0)
        if self.decode_blocks() > len(self.cache.free):
            # in order of retraction; the later in the batch first among equals
            order = sorted(
                enumerate(self.running), key=lambda p: (p[1].generated, -p[1].prompt, -p[0])
            )
            for _, request in order[:-1]:
                self.send_back(request, len(self.waiting))
                if self.decode_blocks() <= len(self.cache.free):
                    break
            made = sum(request.generated for request in self.running)
            asked = sum(request.output for request in self.running)
            self.full = False
            self.ratio = min((made + 20 * len(self.running)) / (asked + 1), 1.0)
        else:
            least = 0.14 * first
            self.ratio = max(self.ratio - (first - least) / 600, least)
        given = {request: self.wants(request) for request in self.running}
        for request, tokens in given.items():
            self.cache.take(request, request.computed + tokens)
        return given

    # --- steps ---

    def begin(self, now_s: float) -> Shape:
        self.scheduled += 1
        given = self.sglang(now_s) if self.limits.prefill_first else self.vllm(now_s)
        parts = [(r, given[r]) for r in self.running if given.get(r)]
        shape = self.shape(parts)
        flight = Flight([], 0.0)
        for request, tokens in parts:
            request.computed += tokens
            samples = request.computed == request.total + request.pending
            request.flying += 1
            request.pending += samples
            request.next_step = self.scheduled + (self.limits.pipeline_depth if samples else 0)
            flight.parts.append((request, request.computed, samples))
        self.flights.append(flight)
        return shape

    def launch(self, now_s: float, duration_s: float, hidden_s: float) -> None:
        at_s = now_s + hidden_s
        for stage in range(len(self.stages)):
            part_s = (duration_s - hidden_s) / len(self.stages)
            at_s = self.stages[stage] = max(at_s, self.stages[stage]) + part_s
        self.flights[-1].end_s = at_s

    def shape(self, parts: list[tuple[Request, int]]) -> Shape:
        prefills = [(r.computed, a) for r, a in parts if a > 1]
        kv = float(sum(r.computed + 1 for r, a in parts if a == 1))
        pairs = float(sum(a * (k + 0.5 * a) for k, a in prefills))
        return Shape(
            tokens=sum(a for _, a in parts),
            sequences=len(parts),
            prefill_sequences=len(prefills),
            prefill_token_pairs=pairs,
            prefill_window_token_pairs=pairs,
            kv_tokens=kv,
            kv_window_tokens=kv,
            prefill_kv_tokens=float(sum(k + a for k, a in prefills)),
            longest_chunk_tokens=max((a for _, a in prefills), default=0),
        )

    def end(self) -> list[Request]:
        """End the oldest step; the requests that are done."""
        flight, done = self.flights.pop(0), []
        for request, computed, samples in flight.parts:
            if request.generated == request.output:
                continue
            request.flying -= 1
            if self.limits.prefill_first:
                if request not in self.running:
                    continue
                self.cache.name(request, min(computed, request.prompt))
            if not samples:
                continue
            request.generated += 1
            request.pending = max(request.pending - 1, 0)
            if request.first_token_s is None:
                request.first_token_s = flight.end_s
            request.last_token_s = flight.end_s
            if request.generated == request.output:
                done.append(request)
                self.remove(request)
        return done

    def remove(self, request: Request) -> None:
        if request in self.waiting:
            self.waiting.remove(request)
            return
        if self.limits.prefill_first:
            self.cache.name(request, request.total - 1)
        self.running.remove(request)
        self.cache.let_go(request)
        self.full = False

    def check(self) -> None:
        """Every block is held or free, and the queue's order holds."""
        held = {id(block): block for request in self.running for block in request.blocks}
        assert len(held) + len(self.cache.free) == self.limits.num_blocks
        assert all(block.holders == 0 for block in self.cache.free)
        assert len(self.running) <= self.limits.max_num_seqs


def requests_of(trace: Trace) -> list[Request]:
    n, hashes = len(trace), trace.hashes
    ids: list[tuple[int, ...]] = [()] * n
    if hashes is not None:
        ids = [tuple(part.tolist()) for part in np.split(hashes.ids, hashes.offsets[1:-1])]
    return [
        Request(
            number,
            float(trace.arrival_s[number]),
            int(trace.input_tokens[number]),
            max(int(trace.output_tokens[number]), 1),
            0 if trace.priority is None else int(trace.priority[number]),
            int(trace.prefix_tokens[number]),
            ids[number],
            0 if hashes is None else hashes.block_tokens,
        )
        for number in range(n)
    ]


Row = tuple[float, float, int, int, int, int, int, int]


def row_of(engine: NaiveEngine, requests: list[Request], now_s: float, shape: Shape) -> Row:
    """The step as `Steps` tells it."""
    return (
        now_s,
        float(step_s(COST, shape)),
        len(engine.running),
        len(engine.waiting),
        engine.limits.num_blocks - len(engine.cache.free),
        shape.tokens,
        shape.tokens - (shape.sequences - shape.prefill_sequences),
        sum(request.preemptions for request in requests),
    )


def naive_run(trace: Trace, limits: Limits) -> tuple[list[Request], list[Row]]:
    """All requests, done, in the trace's order, and the steps that ran."""
    requests, rows, clock, cursor = requests_of(trace), [], 0.0, 0
    engine = NaiveEngine(limits, trace.hashes is not None and bool(limits.prefix_caching))
    while cursor < len(requests) or engine.waiting or engine.running or engine.flights:
        while cursor < len(requests) and requests[cursor].arrival_s <= clock:
            engine.enqueue(requests[cursor])
            cursor += 1
        busy = bool(engine.waiting or engine.running)
        if busy and len(engine.flights) < limits.pipeline_depth + limits.async_scheduling:
            shape = engine.begin(clock)
            step = float(step_s(COST, shape)) if shape.tokens else 0.0
            hidden_s = min(limits.overlap_ratio * COST.step_overhead_s, step)
            engine.launch(clock, step, hidden_s if limits.async_scheduling else 0.0)
            if shape.tokens:
                rows.append(row_of(engine, requests, clock, shape))
            assert shape.tokens or len(engine.flights) > 1 or limits.priority_scheduling, (
                "a step must make progress, unless the first in the batch is its victim"
            )
        elif engine.flights:
            clock = engine.flights[0].end_s
            engine.end()
        else:
            engine.rest()
            clock = requests[cursor].arrival_s
        engine.check()
    return requests, rows
