"""`whaleflux profile URL`: from an address to a document that reads back."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from typer.testing import CliRunner

from controller.cli import build_app
from controller.cli.profile.engine_metrics import EngineMetrics
from controller.cli.profile.measure import Asked, journal_path, run
from profiler.configuration import Configuration
from profiler.document import read_profile, to_document
from profiler.emulator import RealClock
from profiler.errors import Refused, RetryLater
from profiler.layout import Layout
from profiler.measure import PromptKind, open_session
from profiler.operators import KvDtype
from profiler.profile import Source
from tests.profiler.emulator.emulated import Emulated, emulated, some_limits
from tests.profiler.profiling.rig import true_cost

if TYPE_CHECKING:
    from profiler.measure.profiling import Progress

MODEL = "meta-llama/Llama-3.1-8B-Instruct"
LIMITS = some_limits(max_num_seqs=4, max_num_batched_tokens=2048, num_blocks=512)


def url_of(engine: Emulated) -> str:
    return str(engine.session._base_url).rstrip("/")


def asked(url: str, folder: Path, **changes: Any) -> Asked:
    fields: dict[str, Any] = {
        "url": url,
        "model": MODEL,
        "gpu": "L4",
        "served_name": None,
        "layout": Layout(),
        "kv_dtype": KvDtype.AUTO,
        "profile": None,
        "output": folder / "p.yaml",
        "minutes": 0.05,
        "max_num_seqs": 4,
        "max_num_batched_tokens": 2048,
        "max_model_len": None,
        "share": False,
        "api_key": None,
        "prompt": PromptKind.TOKENS,
        "seed": 0,
    }
    return Asked(**{**fields, **changes})


async def test_an_address_becomes_a_document(tmp_path: Path) -> None:
    cost = true_cost()._replace(dense_s=tuple(s / 20 for s in true_cost().dense_s))
    seen: list[Progress] = []
    async with emulated(cost=cost, limits=LIMITS, clock=RealClock(), max_model_len=1024) as engine:
        profile = await run(asked(url_of(engine), tmp_path, minutes=0.2), seen.append)
    assert profile.source is Source.MEASURED
    assert profile.engine_version == "0.32.0"
    assert profile.provenance.points >= 3
    assert profile.provenance.measured_at.startswith("20")
    assert any(note.startswith("NVML: ") for note in profile.provenance.notes)
    assert profile.residuals
    assert seen[-1].now == "fit"
    configuration = Configuration(max_num_seqs=4, max_num_batched_tokens=2048, max_model_len=1024)
    assert profile.limits(configuration).num_blocks == pytest.approx(512, abs=1)
    file = tmp_path / "q.yaml"
    file.write_text(yaml.safe_dump(to_document(profile, "p")))
    again = read_profile(str(file))
    assert again.provenance == profile.provenance
    assert journal_path(tmp_path / "p.yaml").exists()


async def test_a_name_of_one_s_own_needs_no_catalogue(tmp_path: Path) -> None:
    cost = true_cost()._replace(dense_s=tuple(s / 20 for s in true_cost().dense_s))
    wanted = {"model": "noise", "gpu": "CPU", "minutes": 0.1}
    async with emulated(cost=cost, limits=LIMITS, clock=RealClock(), max_model_len=1024) as engine:
        profile = await run(asked(url_of(engine), tmp_path, **wanted), lambda _: None)
    assert (profile.model, profile.gpu, profile.max_model_len) == ("noise", "CPU", 1024)
    assert any("first three points" in note for note in profile.provenance.notes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"served_name": "other"}, "served-name: 'other' is not served"),
        ({"model": "noise"}, "model: 'noise' is not known"),
        ({"gpu": "H10"}, "did you mean"),
        ({"profile": "/none"}, "cannot read /none"),
    ],
)
async def test_a_user_s_mistake_is_one_line(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    async with emulated(clock=RealClock(), limits=LIMITS, max_model_len=1024) as engine:
        with pytest.raises(Refused, match=message):
            await run(asked(url_of(engine), tmp_path, **changes), lambda _: None)
    assert not (tmp_path / "p.yaml").exists()


def test_nobody_at_the_address_is_exit_2_and_one_line(tmp_path: Path) -> None:
    result = CliRunner().invoke(
        build_app("profile"),
        ["profile", "http://127.0.0.1:9", "--model", MODEL, "--gpu", "L4",
         "-o", str(tmp_path / "p.yaml")],
    )  # fmt: skip
    assert isinstance(result.exception, Refused)
    assert "127.0.0.1:9/v1/models cannot be reached" in str(result.exception)


def test_an_output_without_a_folder_is_refused_before_anything_runs(tmp_path: Path) -> None:
    ask = ["profile", "http://127.0.0.1:9", "--model", MODEL, "--gpu", "L4", "-o"]
    result = CliRunner().invoke(build_app("profile"), [*ask, str(tmp_path / "no" / "p.yaml")])
    assert "is no folder" in str(result.exception)
    result = CliRunner().invoke(
        build_app("profile"), [*ask, str(tmp_path / "p.yaml"), "--minutes", "0"]
    )
    assert "--minutes" in str(result.exception)


async def test_the_port_reads_phases_and_the_cache() -> None:
    async with emulated(limits=LIMITS, max_model_len=1024) as engine, open_session() as http:
        metrics = EngineMetrics(http, f"{url_of(engine)}/metrics")
        await engine.completion()
        phases, cache = await metrics.phases(), await metrics.cache()
    assert phases is not None
    assert phases.absent == ()
    assert phases.in_flight == 0
    assert phases.prefill is not None
    assert phases.prefill.count == 1
    assert phases.iteration_tokens is not None
    assert phases.iteration_tokens.count == 3
    assert (cache.capacity_tokens, cache.block_tokens) == (512 * 16, 16)
    assert cache.prefix_caching is True
    assert not cache.blocks_overridden


async def test_an_engine_without_metrics_is_no_failure_until_it_had_some() -> None:
    async with (
        emulated(limits=LIMITS, faults=True, max_model_len=1024) as engine,
        open_session() as http,
    ):
        metrics = EngineMetrics(http, f"{url_of(engine)}/nothing")
        assert await metrics.phases() is None
        assert (await metrics.cache()).capacity_tokens is None
        metrics = EngineMetrics(http, f"{url_of(engine)}/metrics")
        assert await metrics.phases() is not None
        async with engine.session.post("/faults", json={"kind": "metrics_gone"}):
            pass
        with pytest.raises(RetryLater, match="HTTP 404"):
            await metrics.phases()
