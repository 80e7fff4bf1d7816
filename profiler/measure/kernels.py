"""Time the kernels of a model's layers on this machine's GPU, operator by operator.

    python -m profiler.measure.kernels --model M [--layers 4] [--shapes ...] -o FILE

Runs by itself wherever torch is, in the engine's own environment for one; needs no engine,
no weights, no network. A few layers of the architecture with random weights stand for all:
RMSNorm, projections, rotary embedding, attention over a KV cache, feed-forward or experts,
output head. torch.profiler says which kernel was launched inside which operator's range;
`whaleflux profile decompose --measured FILE` shows the result beside the prediction.

What it is not: the engine's own kernels. Attention is torch's scaled_dot_product_attention
(flash or cuDNN where they apply), the cache is contiguous, weights are 16-bit, and several
GPUs are one GPU's share without the messages between them.
"""

import argparse
import json
import re
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from profiler.architecture import Architecture, load_architecture
from profiler.errors import Refused, WhaleFluxError

DEFAULT_SHAPES = (
    "prefill 512", "prefill 2048", "decode 1x1024", "decode 64x1024", "mixed 512+64x1024",
)  # fmt: skip
RANGE = "whaleflux: "
"""Begins the name of every operator's range, so that others' ranges are passed over."""
ONCE = frozenset({"output head"})
"""Operators outside the layers: not scaled up to the whole model."""
_WARM_UP = 3
_SHAPE = re.compile(
    r"prefill (?P<p>\d+)(?:@(?P<k>\d+))?|decode (?P<d>\d+)x(?P<c>\d+)"
    r"|mixed (?P<n>\d+)\+(?P<md>\d+)x(?P<mc>\d+)"
)


@dataclass(frozen=True, slots=True)
class Work:
    """One step: a chunk of `prefill` tokens after `cached`, and `decodes` of `context`."""

    title: str
    prefill: int = 0
    cached: int = 0
    decodes: int = 0
    context: int = 0

    @classmethod
    def of(cls, title: str) -> "Work":
        """Read a shape as `decompose` writes it."""
        found = _SHAPE.fullmatch(title)
        if found is None:
            raise Refused(f"--shapes: {title!r}: write 'prefill 512', 'prefill 512@1024', "
                          "'decode 64x1024' or 'mixed 512+64x1024'")  # fmt: skip
        n = {k: int(v or 0) for k, v in found.groupdict().items()}
        return cls(title, n["p"] + n["n"], n["k"], n["d"] + n["md"], n["c"] + n["mc"])


class Kernel(NamedTuple):
    """One kernel's time in one step, all its launches together."""

    name: str
    operator: str
    seconds: float


# --- what a trace says; pure ---


@dataclass(slots=True)
class _Ranges:
    """Operator ranges of one thread, by beginning."""

    spans: list[tuple[float, float, str]] = field(default_factory=list)

    def innermost(self, at_us: float) -> str | None:
        """Operator whose shortest range holds the moment."""
        holding = [(e - b, name) for b, e, name in self.spans if b <= at_us <= e]
        return min(holding)[1] if holding else None


def attribute(events: Iterable[Mapping[str, Any]], repeats: int) -> tuple[Kernel, ...]:
    """Give each device kernel to the range in which it was launched; seconds of one repeat.

    `events` are those of a Chrome trace of torch.profiler: a kernel and the runtime call
    that launched it share a correlation, and the call lies inside an annotation on its
    thread. Without any kernel (a CPU) the outermost operators inside a range count.
    """
    kept = [e for e in events if e.get("ph") == "X"]
    ranges = _ranges(kept)
    kernels = [e for e in kept if e.get("cat") in ("kernel", "gpu_memcpy", "gpu_memset")]
    placed = _by_launch(kept, kernels, ranges) if kernels else _outermost(kept, ranges)
    totals: dict[tuple[str, str], float] = {}
    for name, operator, duration_us in placed:
        totals[name, operator] = totals.get((name, operator), 0.0) + duration_us
    found = [Kernel(n, o, us / 1e6 / repeats) for (n, o), us in totals.items()]
    return tuple(sorted(found, key=lambda kernel: -kernel.seconds))


def _ranges(events: Iterable[Mapping[str, Any]]) -> dict[object, _Ranges]:
    threads: dict[object, _Ranges] = {}
    for e in events:
        name = str(e.get("name", ""))
        if e.get("cat") == "user_annotation" and name.startswith(RANGE):
            begin = float(e["ts"])
            span = (begin, begin + float(e.get("dur", 0.0)), name.removeprefix(RANGE))
            threads.setdefault(e.get("tid"), _Ranges()).spans.append(span)
    return threads


def _by_launch(
    events: Iterable[Mapping[str, Any]],
    kernels: Iterable[Mapping[str, Any]],
    ranges: Mapping[object, _Ranges],
) -> Iterator[tuple[str, str, float]]:
    launches = {
        e["args"]["correlation"]: e
        for e in events
        if e.get("cat") in ("cuda_runtime", "cuda_driver") and "correlation" in e.get("args", {})
    }
    for kernel in kernels:
        launch = launches.get(kernel.get("args", {}).get("correlation"))
        thread = ranges.get(launch.get("tid")) if launch else None
        operator = thread.innermost(float(launch["ts"])) if launch and thread else None
        if operator is not None:
            yield str(kernel["name"]), operator, float(kernel.get("dur", 0.0))


def _outermost(
    events: Iterable[Mapping[str, Any]], ranges: Mapping[object, _Ranges]
) -> Iterator[tuple[str, str, float]]:
    """Operators of a CPU that lie in no other; their durations add up."""
    until: dict[object, float] = {}
    calls = [e for e in events if e.get("cat") == "cpu_op"]
    for e in sorted(calls, key=lambda e: (float(e["ts"]), -float(e.get("dur", 0.0)))):
        begin, thread = float(e["ts"]), ranges.get(e.get("tid"))
        if thread is None or begin < until.get(e.get("tid"), 0.0):
            continue
        operator = thread.innermost(begin)
        if operator is not None:
            until[e.get("tid")] = begin + float(e.get("dur", 0.0))
            yield str(e["name"]), operator, float(e.get("dur", 0.0))


def scaled_up(kernels: Iterable[Kernel], layers: int, built: int) -> tuple[Kernel, ...]:
    """Turn the time of the layers that were built into that of all layers."""
    return tuple(
        k if k.operator in ONCE else k._replace(seconds=k.seconds * layers / built) for k in kernels
    )


# --- the layers, in torch ---


class Layers:
    """A few layers with random weights; `step` runs one step of a `Work`."""

    def __init__(self, torch: Any, a: Architecture, built: int, tensor: int, device: str) -> None:
        if a.latent is not None:
            raise Refused(f"model: {a.name} has latent attention, which this tool does not build")
        self.torch, self.a, self.built, self.device = torch, a, built, device
        self.dtype = torch.bfloat16
        self.heads = max(a.heads // tensor, 1)
        self.kv_heads = max(a.kv_heads // tensor, 1)
        self.width = max(a.intermediate_size // tensor, 1)
        self.vocabulary = max(a.vocab_size // tensor, 1)
        self.expert_width = max(a.experts.intermediate_size // tensor, 1) if a.experts else 0
        self.shared_width = max(a.experts.shared_intermediate_size // tensor, 0) if a.experts else 0
        self.layers = [self._layer() for _ in range(built)]
        self.norm = torch.ones(a.hidden_size, dtype=self.dtype, device=device)
        fuse = torch.compile(dynamic=True) if device == "cuda" else lambda function: function
        self._add_norm, self._rotated, self._activated = map(fuse, _element_wise(torch))
        self.head = self._matrix(self.vocabulary, a.hidden_size)

    def _matrix(self, *size: int) -> Any:
        made = self.torch.empty(*size, dtype=self.dtype, device=self.device)
        return made.normal_(0.0, size[-1] ** -0.5)

    def _layer(self) -> dict[str, Any]:
        d, a = self.a.hidden_size, self.a
        queries = (self.heads + 2 * self.kv_heads) * a.head_size
        layer = {"qkv": self._matrix(queries, d), "out": self._matrix(d, self.heads * a.head_size)}
        if a.experts is None:
            return layer | self._block("", self.width)
        count, width = a.experts.count, self.expert_width
        layer["router"] = self._matrix(count, d)
        layer["experts_up"] = self._matrix(count, 2 * width, d)
        layer["experts_down"] = self._matrix(count, d, width)
        return layer | (self._block("shared_", self.shared_width) if self.shared_width else {})

    def _block(self, prefix: str, width: int) -> dict[str, Any]:
        d = self.a.hidden_size
        return {
            f"{prefix}up": self._matrix(2 * width, d), f"{prefix}down": self._matrix(d, width),
        }  # fmt: skip

    def caches(self, work: Work) -> dict[str, Any]:
        """Keys and values of what was computed before, one layer's for all layers built."""
        size = self.a.head_size
        held: dict[str, Any] = {}
        if work.decodes:
            shape = (work.decodes, self.kv_heads, work.context, size)
            held["decode"] = (self._matrix(*shape), self._matrix(*shape))
        if work.prefill:
            # behind cached keys attention is masked by a bias, which knows no groups of heads
            heads = self.heads if work.cached else self.kv_heads
            shape = (1, heads, work.cached + work.prefill, size)
            held["prefill"] = (self._matrix(*shape), self._matrix(*shape))
        return held

    @contextmanager
    def _range(self, operator: str) -> Iterator[None]:
        with self.torch.profiler.record_function(RANGE + operator):
            yield

    def step(self, work: Work, x: Any, caches: Mapping[str, Any]) -> Any:
        """One step of all layers built, and the output head of its sequences."""
        added: Any = None
        for layer in self.layers:
            with self._range("element-wise"):
                x, normed = self._add_norm(x, added, self.norm)
            with self._range("projections"):
                qkv = normed @ layer["qkv"].T
            attended = self._attention(work, qkv, caches)
            with self._range("projections"):
                added = attended @ layer["out"].T
            with self._range("element-wise"):
                x, normed = self._add_norm(x, added, self.norm)
            added = self._feed_forward(layer, normed)
        sequences = work.decodes + (1 if work.prefill else 0)
        with self._range("output head"):
            _, normed = self._add_norm(x[-sequences:], added[-sequences:], self.norm)
            return normed @ self.head.T

    def _attention(self, work: Work, qkv: Any, caches: Mapping[str, Any]) -> Any:
        """Chunk first, decodes after it, as rows of one step."""
        size = self.a.head_size
        with self._range("element-wise"):
            turned = self.heads + self.kv_heads
            rows = qkv[:, : turned * size].unflatten(1, (turned, size))
            q = self._rotated(rows)[:, : self.heads]
        parts = []
        if work.prefill:
            with self._range("prefill attention"):
                keys, values = caches["prefill"]
                chunk = q[: work.prefill].transpose(0, 1).unsqueeze(0)
                seen = self._attend(chunk, keys, values, causal=True)
                parts.append(seen[0].transpose(0, 1).flatten(1))
        if work.decodes:
            with self._range("decode attention"):
                keys, values = caches["decode"]
                seen = self._attend(q[work.prefill :].unsqueeze(2), keys, values, causal=False)
                parts.append(seen.squeeze(2).flatten(1))
        return parts[0] if len(parts) == 1 else self.torch.cat(parts)

    def _attend(self, q: Any, keys: Any, values: Any, *, causal: bool) -> Any:
        """Attention of [batch, heads, rows, size]; a chunk's last row sees the last key."""
        functional = self.torch.nn.functional
        rows, seen = q.shape[2], keys.shape[2]
        options: dict[str, Any] = {"enable_gqa": q.shape[1] != keys.shape[1]}
        if causal and rows == seen:
            options["is_causal"] = True
        elif causal:
            from torch.nn.attention.bias import causal_lower_right  # noqa: PLC0415

            options["attn_mask"] = causal_lower_right(rows, seen)
            options.pop("enable_gqa")
        return functional.scaled_dot_product_attention(q, keys, values, **options)

    def _feed_forward(self, layer: Mapping[str, Any], x: Any) -> Any:
        if self.a.experts is None:
            with self._range("feed-forward"):
                return self._gated(x, layer["up"], layer["down"])
        with self._range("feed-forward"):
            weights, chosen = self.torch.topk(
                self.torch.softmax(x @ layer["router"].T, -1), self.a.experts.per_token, -1
            )
            shared = self._gated(x, layer["shared_up"], layer["shared_down"]) if (
                "shared_up" in layer) else None  # fmt: skip
        with self._range("experts"):
            routed = self._experts(layer, x, weights, chosen)
        return routed if shared is None else routed + shared

    def _gated(self, x: Any, up: Any, down: Any) -> Any:
        gate_up = x @ up.T
        with self._range("element-wise"):
            activated = self._activated(gate_up)
        return activated @ down.T

    def _experts(self, layer: Mapping[str, Any], x: Any, weights: Any, chosen: Any) -> Any:
        """Every expert's rows side by side, one grouped product for all experts."""
        order = chosen.flatten().argsort()
        rows = order // chosen.shape[1]
        counts = self.torch.bincount(chosen.flatten(), minlength=len(layer["experts_up"]))
        ends = counts.cumsum(0)
        gate_up = self._grouped(x[rows], layer["experts_up"], ends)
        with self._range("element-wise"):
            activated = self._activated(gate_up)
        made = self._grouped(activated, layer["experts_down"], ends)
        made = made * weights.flatten()[order].unsqueeze(1)
        return self.torch.zeros_like(x).index_add_(0, rows, made.to(x.dtype))

    def _grouped(self, x: Any, matrices: Any, ends: Any) -> Any:
        """Multiply each group of rows, which ends at `ends`, by its own matrix."""
        functional = self.torch.nn.functional
        if self.device == "cuda" and hasattr(functional, "grouped_mm"):
            offsets = ends.to(self.torch.int32)
            return functional.grouped_mm(x, matrices.transpose(1, 2), offs=offsets)
        parts = self.torch.tensor_split(x, ends[:-1].cpu())
        return self.torch.cat([part @ m.T for part, m in zip(parts, matrices, strict=True)])


def _element_wise(torch: Any) -> tuple[Callable[..., Any], ...]:
    """What engines fuse into one kernel each: residual and norm, rotation, gated activation."""

    def add_norm(x: Any, added: Any, weight: Any) -> tuple[Any, Any]:
        x = x if added is None else x + added
        return x, torch.nn.functional.rms_norm(x, (x.shape[-1],), weight)

    def rotated(q: Any) -> Any:
        """Rotate halves by the angles of a position; which position costs the same."""
        first, second = q.chunk(2, -1)
        return torch.cat((first * 0.8 - second * 0.6, second * 0.8 + first * 0.6), -1)

    def activated(gate_up: Any) -> Any:
        gate, value = gate_up.chunk(2, -1)
        return torch.nn.functional.silu(gate) * value

    return add_norm, rotated, activated


def time_step(torch: Any, layers: Layers, work: Work, repeats: int) -> tuple[Kernel, ...]:
    """Run a step until it is warm, then under the profiler; seconds of one step, all layers."""
    x = layers._matrix(work.prefill + work.decodes, layers.a.hidden_size)
    caches = layers.caches(work)
    activities = [torch.profiler.ProfilerActivity.CPU]
    if layers.device == "cuda":
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    with torch.inference_mode():
        for _ in range(_WARM_UP):
            layers.step(work, x, caches)
        _settle(torch, layers.device)
        with torch.profiler.profile(activities=activities) as profiled:
            for _ in range(repeats):
                layers.step(work, x, caches)
            _settle(torch, layers.device)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "trace.json"
        profiled.export_chrome_trace(str(file))
        events = json.loads(file.read_text(encoding="utf-8"))["traceEvents"]
    return scaled_up(attribute(events, repeats), layers.a.layers, layers.built)


def _settle(torch: Any, device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def document(
    torch: Any, a: Architecture, device: str, timed: Mapping[str, tuple[Kernel, ...]]
) -> dict[str, Any]:
    """What is written: operators and kernels of each shape, seconds of one step."""
    cuda = device == "cuda"
    return {
        "gpu": torch.cuda.get_device_name() if cuda else "CPU",
        "driver": _driver() if cuda else "",
        "torch": torch.__version__,
        "model": a.name,
        "notes": _notes(a),
        "shapes": [
            {
                "shape": title,
                "operators": _sums(kernels),
                "kernels": [kernel._asdict() for kernel in kernels],
            }
            for title, kernels in timed.items()
        ],
    }


def _sums(kernels: Iterable[Kernel]) -> dict[str, float]:
    sums: dict[str, float] = {}
    for kernel in kernels:
        sums[kernel.operator] = sums.get(kernel.operator, 0.0) + kernel.seconds
    return sums


def _notes(a: Architecture) -> list[str]:
    notes = ["attention is torch's, on a contiguous cache; weights are 16-bit"]
    if a.window_layers:
        notes.append("sliding-window layers were run as full attention")
    if a.linear_layers:
        notes.append("linear-attention layers were run as full attention")
    if a.experts and a.experts.layers < a.layers:
        notes.append("dense layers were run as layers with experts")
    return notes


def _driver() -> str:
    """GPU driver by NVML; empty where that is absent."""
    try:
        import pynvml  # type: ignore[import-untyped,unused-ignore]  # noqa: PLC0415

        pynvml.nvmlInit()
        said = pynvml.nvmlSystemGetDriverVersion()
    except Exception:  # beside the measurement, whatever is missing
        return ""
    return said.decode() if isinstance(said, bytes) else str(said)


def main() -> int:
    """Time the shapes and write the file; 2 with one line for a user's mistake."""
    parser = argparse.ArgumentParser(prog="python -m profiler.measure.kernels")
    parser.add_argument("--model", required=True, help="bundled name, folder or config.json")
    parser.add_argument("--layers", type=int, default=4, help="layers to build")
    parser.add_argument("--tensor-parallel-size", type=int, default=1)
    parser.add_argument("--shapes", nargs="+", default=DEFAULT_SHAPES, metavar="SHAPE")
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--device", choices=("auto", "cuda", "cpu"), default="auto")
    parser.add_argument("-o", "--output", type=Path, required=True)
    try:
        return _run(parser.parse_args())
    except WhaleFluxError as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201 - a command of its own
        return 2


def _run(asked: argparse.Namespace) -> int:
    works = [Work.of(title) for title in asked.shapes]
    a = load_architecture(asked.model)
    try:
        import torch  # type: ignore[import-not-found,unused-ignore]  # noqa: PLC0415
    except ImportError:
        raise Refused("torch is not installed here: run it with the engine's own Python") from None
    device = asked.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(0)
    built = min(max(asked.layers, 1), a.layers)
    layers = Layers(torch, a, built, asked.tensor_parallel_size, device)
    timed = {w.title: time_step(torch, layers, w, asked.repeats) for w in works}
    text = json.dumps(document(torch, a, device, timed), indent=1)
    try:
        asked.output.write_text(text + "\n", encoding="utf-8")
    except OSError as error:
        raise Refused(f"--output: cannot write {asked.output}: {error.strerror}") from error
    return 0


if __name__ == "__main__":
    sys.exit(main())
