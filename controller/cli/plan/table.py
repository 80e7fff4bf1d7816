"""The plan for people: a table that fits a terminal, and the story in sentences."""

from collections.abc import Iterable, Iterator

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from controller.cli.plan.documents import Told
from profiler.slo import Slo
from recommender import Candidate, Explanation, Workload, how_sure, title, what_binds
from recommender.explanation import QUANTILES

_COLUMNS = (
    "layout", "seqs", "tokens", "req/s", "/GPU", "N", "GPUs", "TTFT", "ITL", "binds"
)  # fmt: skip
_LEGEND = "best first; req/s: of a replica; N: replicas; TTFT, ITL: ms at that rate"


def print_plan(told: Told) -> None:
    """Print the whole plan."""
    out = Console()
    _print_question(out, told)
    _print_candidates(out, told)
    for line in _lines(told):
        out.print(line, highlight=False, soft_wrap=True)
    if told.story is not None:
        _print_story(out, told.story)
    args = " ".join(told.found.best.configuration.engine_args())
    out.print(f"flags: {escape(args)}", highlight=False, soft_wrap=True)


def _print_question(out: Console, told: Told) -> None:
    workload, slo = told.asked.workload, told.asked.slo
    out.print(
        f"[bold]{escape(told.found.best.profile.model)}[/]: {_rate(workload)}, "
        f"{workload.mean_input_tokens:.0f} → {workload.mean_output_tokens:.0f} tokens, "
        f"burstiness {workload.cv:.1f}; {slo.percentile:.0%} of requests within "
        + ", ".join(_bounds(slo)),
        highlight=False,
    )


def _rate(workload: Workload) -> str:
    peak = workload.sized_rps
    more = f", {peak:.2f} at its peak" if peak > 1.005 * workload.rate_rps else ""
    hits = f", {workload.hit_ratio:.0%} of prompts cached" if workload.hit_ratio > 0 else ""
    return f"{workload.rate_rps:.2f} req/s{more}{hits}"


def _bounds(slo: Slo) -> list[str]:
    bounds = (("TTFT", slo.ttft_s), ("ITL", slo.itl_s), ("end to end", slo.e2e_s))
    return [f"{name} {bound * 1e3:.0f} ms" for name, bound in bounds if bound is not None]


def _print_candidates(out: Console, told: Told) -> None:
    priced = any(offer.price_per_hour != 1.0 for offer in told.asked.offers)
    columns = (*_COLUMNS, "cost/h") if priced else _COLUMNS
    table = Table(
        box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), caption=_LEGEND, caption_justify="left"
    )
    for name in columns:
        left = name in {"layout", "binds"}
        table.add_column(name, justify="left" if left else "right", no_wrap=True)
    best, rate_rps = told.found.best, told.asked.workload.sized_rps
    several = len(told.asked.offers) > 1
    for candidate in (best, *told.found.runners_up):
        name = title(candidate) if several else title(candidate).split(" ", 1)[1]
        row = [name, *_row(candidate, rate_rps)]
        if priced:
            row.append(f"{candidate.cost_per_hour(rate_rps):.2f}")
        table.add_row(*row, style="bold" if candidate is best else None)
    out.print(table)


def _row(candidate: Candidate, rate_rps: float) -> list[str]:
    c, capacity = candidate.configuration, candidate.capacity
    replicas = candidate.replicas(rate_rps)
    return [
        str(c.max_num_seqs),
        str(c.max_num_batched_tokens),
        f"{capacity.rate_rps:.2f}",
        f"{candidate.rps_per_gpu:.2f}",
        str(replicas),
        str(replicas * candidate.gpus),
        f"{capacity.latency.ttft_s * 1e3:.0f}",
        f"{capacity.latency.itl_s * 1e3:.1f}",
        capacity.binds,
    ]


def _lines(told: Told) -> Iterator[str]:
    """What a plan says in any case."""
    asked, best = told.asked, told.found.best
    yield f"why: {what_binds(best, asked.workload, asked.slo).says}"
    sure = how_sure(best, asked.workload, asked.slo)
    yield (
        f"sure: the model to ± {sure.model_error:.0%}, the workload to "
        f"± {sure.workload_error:.0%}: {_replicas(sure.sure_replicas)} to be 90 % sure"
    )
    if told.beside is not None:
        yield f"now: {told.beside.says}"
    for note in told.notes:
        yield f"note: {note}"
    for line in told.found.not_possible:
        yield f"not possible: {line}"


def _replicas(count: int) -> str:
    return f"{count} replica{'s' if count > 1 else ''}"


def _print_story(out: Console, story: Explanation) -> None:
    for line in story.why:
        out.print(f"· {line}", highlight=False, soft_wrap=True)
    _print_table(
        out,
        ("latency, s", *(f"P{round(100 * q)}" for q in QUANTILES), "mean"),
        (
            (each.metric.upper(), *(f"{q:.3f}" for q in each.quantiles), f"{each.mean_s:.3f}")
            for each in story.distribution
        ),
    )
    for each in story.what_if:
        out.print(f"{each.change}: {each.says}", highlight=False, soft_wrap=True)
    out.print(f"prefill and decode apart: {story.split_says}", highlight=False, soft_wrap=True)
    _print_table(
        out,
        ("cost and latency", "N", "GPUs", "cost/h", "TTFT, ms", "ITL, ms", "E2E, s"),
        (
            (
                p.name, str(p.replicas), str(p.gpus), f"{p.cost_per_hour:.2f}",
                f"{p.ttft_s * 1e3:.0f}", f"{p.itl_s * 1e3:.1f}", f"{p.e2e_s:.1f}",
            )
            for p in story.pareto
            if p.efficient
        ),
    )  # fmt: skip


def _print_table(out: Console, columns: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> None:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for i, name in enumerate(columns):
        table.add_column(name, justify="right" if i else "left", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    out.print(table)
