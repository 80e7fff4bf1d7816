"""A plain-object engine with vLLM's scheduling rules: the kernels' oracle.

Written from the rules, not from the kernels: lists and objects, no slots, no arrays.
"""

from dataclasses import dataclass, field

from profiler.scheduler import Limits, Shape


@dataclass
class Request:
    number: int
    arrival_s: float
    prompt: int
    output: int
    generated: int = 0
    computed: int = 0
    blocks: int = 0
    first_token_s: float | None = None
    last_token_s: float | None = None
    preemptions: int = 0
    kept_rule: tuple[int, int] | None = None
    """(blocks handed out, blocks free) when it was preempted."""

    @property
    def total(self) -> int:
        return self.prompt + self.generated


@dataclass
class NaiveEngine:
    limits: Limits
    free: int = 0
    handed_out: int = 0
    waiting: list[Request] = field(default_factory=list)
    running: list[Request] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.free = self.limits.num_blocks

    def blocks(self, tokens: int) -> int:
        return -(-tokens // self.limits.block_size)

    def hit(self, request: Request) -> int:
        if not self.limits.prefix_caching or request.kept_rule is None:
            return 0
        handed_out, ahead = request.kept_rule
        evicted = max(self.handed_out - handed_out - ahead, 0)
        kept = max(request.blocks - evicted, 0) * self.limits.block_size
        found = min(kept, request.computed, request.total - 1)
        return found // self.limits.block_size * self.limits.block_size

    def step(self) -> tuple[Shape, dict[int, int]]:
        """Schedule one step; its shape and the tokens of each request."""
        budget = self.limits.max_num_batched_tokens
        given: dict[int, int] = {}
        queue = list(self.running)
        preempted = False
        for request in queue:
            if request not in self.running or budget == 0:
                continue
            tokens = min(request.total - request.computed, budget)
            while request in self.running:
                need = self.blocks(request.computed + tokens) - request.blocks
                if need <= self.free:
                    break
                victim = self.running.pop()
                victim.kept_rule = (self.handed_out, self.free)
                self.free += victim.blocks
                victim.preemptions += 1
                self.waiting.insert(0, victim)
                preempted = True
            if request not in self.running:
                break
            self.free -= need
            self.handed_out += need
            request.blocks += need
            given[request.number] = tokens
            budget -= tokens
        while not preempted and self.waiting and budget > 0:
            request = self.waiting[0]
            if len(self.running) == self.limits.max_num_seqs:
                break
            hit = self.hit(request)
            if not self.limits.chunked_prefill and request.total - hit > budget:
                break
            if self.blocks(request.total) > self.free:
                break
            self.waiting.pop(0)
            tokens = min(request.total - hit, budget)
            request.computed = hit
            request.blocks = self.blocks(hit + tokens)
            self.free -= request.blocks
            self.handed_out += request.blocks
            given[request.number] = tokens
            budget -= tokens
            self.running.append(request)
        return self.shape(given), given

    def shape(self, given: dict[int, int]) -> Shape:
        parts = [(r, given[r.number]) for r in self.running if r.number in given]
        prefills = [(r, a) for r, a in parts if a > 1]
        decodes = [r for r, a in parts if a == 1]
        pairs = float(sum(a * (r.computed + 0.5 * a) for r, a in prefills))
        kv = float(sum(r.computed + 1 for r in decodes))
        read = float(sum(r.computed + a for r, a in prefills))
        longest = max((a for _, a in prefills), default=0)
        return Shape(
            sum(a for _, a in parts), len(parts), len(prefills), pairs, pairs, kv, kv, read, longest
        )

    def end(self, given: dict[int, int], now_s: float) -> list[Request]:
        """Commit the step; the requests that are done."""
        done = []
        for request in list(self.running):
            request.computed += given.get(request.number, 0)
            if request.number in given and request.computed == request.total:
                request.generated += 1
                request.first_token_s = request.first_token_s or now_s
                request.last_token_s = now_s
                if request.generated >= request.output:
                    done.append(request)
                    self.running.remove(request)
                    self.free += request.blocks
        return done
