"""Capacity surfaces as they stand in an `EngineProfile` document."""

import math
from dataclasses import replace
from typing import Annotated, Self

from pydantic import Field, NonNegativeInt, PositiveInt

from profiler.configuration import Configuration
from profiler.document_base import DecimalString, Document, decimal
from profiler.slo import Slo
from profiler.surface import CapacitySurface


class BatchingSpec(Document):
    """The batch limits of a configuration; the rest of it is the profile's own."""

    max_num_seqs: PositiveInt
    """Sequences in a batch."""
    max_num_batched_tokens: PositiveInt
    """Tokens in a step."""
    gpu_memory_utilization: DecimalString
    """Share of the card's memory that the engine may use, 0 to 1."""
    max_model_len: PositiveInt | None = None
    """Longest prompt and answer together, tokens; what the model allows when absent."""
    block_size: PositiveInt = 16
    """Tokens of a KV block."""
    enable_chunked_prefill: bool = True
    """A step may compute part of a prompt."""
    enable_prefix_caching: bool = True
    """Prompts that begin alike share their KV."""


class ObjectiveSpec(Document):
    """Latency that the given percentage of requests keep within."""

    ttft_ms: PositiveInt | None = None
    """Time to first token."""
    itl_ms: PositiveInt | None = None
    """Mean inter-token latency of a request."""
    e2e_ms: PositiveInt | None = Field(default=None, alias="e2eMs")
    """End-to-end latency."""
    percentile: PositiveInt = Field(le=99)
    """Percentage of requests."""

    def resolve(self) -> Slo:
        """Turn it into seconds."""
        bounds = (self.ttft_ms, self.itl_ms, self.e2e_ms)
        ttft_s, itl_s, e2e_s = (None if b is None else b / 1e3 for b in bounds)
        return Slo(ttft_s, itl_s, e2e_s, self.percentile / 100)


Rates = Annotated[list[DecimalString], Field(min_length=1, max_length=4096)]
AxisSpec = Annotated[list[DecimalString], Field(min_length=1, max_length=16)]


class CapacitySpec(Document):
    """The request rate that a replica carries within an objective, over a grid of workloads."""

    batching: BatchingSpec
    """Batch limits that it holds for."""
    slo: ObjectiveSpec
    """Objective that it holds for."""
    input_tokens: AxisSpec
    """Mean prompt lengths, ascending."""
    output_tokens: AxisSpec
    """Mean answer lengths, ascending."""
    cv: AxisSpec
    """Burstiness: coefficients of variation of the gaps between requests, ascending."""
    rates_rps: Rates
    """Requests a second by prompt, answer and burstiness, the last fastest; 0: none within
    the objective."""
    error_ratio: DecimalString | None = None
    """Largest relative error of interpolating between the points, where it was checked."""
    mean_error_ratio: DecimalString | None = None
    """Mean relative error there."""
    checked: NonNegativeInt = 0
    """Points at which it was checked."""

    def resolve(self, of: Configuration) -> CapacitySurface:
        """Turn it into a value; `of` is the configuration that the profile is for."""
        b = self.batching
        configuration = replace(
            of,
            max_num_seqs=b.max_num_seqs,
            max_num_batched_tokens=b.max_num_batched_tokens,
            gpu_memory_utilization=float(b.gpu_memory_utilization),
            max_model_len=b.max_model_len,
            block_size=b.block_size,
            enable_chunked_prefill=b.enable_chunked_prefill,
            enable_prefix_caching=b.enable_prefix_caching,
        )
        return CapacitySurface(
            configuration=configuration,
            slo=self.slo.resolve(),
            input_tokens=tuple(map(float, self.input_tokens)),
            output_tokens=tuple(map(float, self.output_tokens)),
            cv=tuple(map(float, self.cv)),
            rates_rps=tuple(map(float, self.rates_rps)),
            error_ratio=float(self.error_ratio or "nan"),
            mean_error_ratio=float(self.mean_error_ratio or "nan"),
            checked=self.checked,
        )

    @classmethod
    def of(cls, surface: CapacitySurface) -> Self:
        """Write a surface."""
        c, slo = surface.configuration, surface.slo
        ms = [None if s is None else round(s * 1e3) for s in (slo.ttft_s, slo.itl_s, slo.e2e_s)]
        errors = (surface.error_ratio, surface.mean_error_ratio)
        known = [None if math.isnan(error) else decimal(error) for error in errors]
        return cls(
            batching=BatchingSpec(
                max_num_seqs=c.max_num_seqs,
                max_num_batched_tokens=c.max_num_batched_tokens,
                gpu_memory_utilization=decimal(c.gpu_memory_utilization),
                max_model_len=c.max_model_len,
                block_size=c.block_size,
                enable_chunked_prefill=c.enable_chunked_prefill,
                enable_prefix_caching=c.enable_prefix_caching,
            ),
            slo=ObjectiveSpec(
                ttft_ms=ms[0], itl_ms=ms[1], e2e_ms=ms[2], percentile=round(100 * slo.percentile)
            ),
            input_tokens=[decimal(x) for x in surface.input_tokens],
            output_tokens=[decimal(x) for x in surface.output_tokens],
            cv=[decimal(x) for x in surface.cv],
            rates_rps=[decimal(x) for x in surface.rates_rps],
            error_ratio=known[0],
            mean_error_ratio=known[1],
            checked=surface.checked,
        )
