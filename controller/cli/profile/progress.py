"""How far a long command is, on stderr: a live line on a terminal, plain lines elsewhere."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from profiler.measure.profiling import Progress as Step


@contextmanager
def shown_on(console: Console) -> Iterator[Callable[[Step], None]]:
    """Show each step of a session while the block runs."""
    if not console.is_terminal:
        yield lambda step: console.print(_line(step), highlight=False, soft_wrap=True)
        return
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("of the time"),
        TimeElapsedColumn(),
        console=console,
    )
    task = bar.add_task("looking at the engine", total=1.0)

    def update(step: Step) -> None:
        share = min(step.spent_s / step.budget_s, 1.0)
        bar.update(task, completed=share, description=f"{step.done} points; {step.now}")

    with bar:
        yield update


def _line(step: Step) -> str:
    return f"{step.spent_s:.0f} of {step.budget_s:.0f} s: {step.done} points; now {step.now}"
