"""The smallest slice that carries a tenant."""

from dataclasses import replace

import numpy as np
import pytest

from profiler.analytical import analytical_cost
from profiler.architecture import load_architecture
from profiler.configuration import Configuration
from profiler.efficiencies import find_efficiency
from profiler.hardware import GIB, find_gpu
from profiler.layout import Layout
from profiler.memory import EngineMemory, predict_memory
from profiler.mig import as_gpu, find_mig_profile, mig_profiles
from profiler.operators import Replica
from profiler.profile import resolve_profile
from profiler.slo import Slo
from recommender.sharing import Tenant, mig_for
from recommender.sharing.slices import slice_profile
from tests.recommender.builders import a_cost, a_profile, a_slo, a_workload

H100 = find_gpu("H100-SXM")


def a_tenant(rate_rps: float = 1.0, weights_gib: float = 1.0, slo: Slo | None = None) -> Tenant:
    memory = EngineMemory(79.18 * GIB, weights_gib * GIB, 1e5, 0.0, 65536.0)
    profile = a_profile(gpu="H100-SXM", cost=a_cost(10.0), memory=memory)
    configuration = Configuration(max_num_seqs=16, max_num_batched_tokens=512)
    workload = replace(a_workload(), rate_rps=rate_rps)
    return Tenant("a", profile, configuration, workload, slo or a_slo())


def compute_slices(tenant: Tenant) -> int:
    found = mig_for(tenant, H100).profile
    return 7 if found is None else found.compute_slices


def test_a_small_service_gets_the_smallest_slice() -> None:
    found = mig_for(a_tenant(0.5), H100)
    assert found.profile is not None
    assert found.profile.name == "1g.10gb"
    assert found.capacity is not None
    assert found.capacity.rate_rps >= 0.5
    assert found.tenant is not None
    assert found.tenant.profile.gpu == "H100-SXM/1g.10gb"
    assert found.tenant.configuration.gpu_memory_utilization < 0.9  # its process needs 1.5 GiB


def test_more_traffic_never_gets_a_smaller_slice() -> None:
    sizes = [compute_slices(a_tenant(rate)) for rate in (0.0, 0.5, 4.0, 30.0, 100.0, 1e4)]
    assert sizes == sorted(sizes)
    assert sizes[-1] == 7


def test_more_memory_gets_a_slice_that_holds_it() -> None:
    found = mig_for(a_tenant(0.5, weights_gib=12.0), H100)
    assert found.profile is not None
    assert found.profile.name == "1g.20gb"


def test_only_the_whole_gpu_comes_with_a_reason() -> None:
    large = mig_for(a_tenant(0.5, weights_gib=60.0), H100)
    assert large.profile is None
    assert "4g.40gb" in large.because
    assert "does not fit" in large.because
    flood = mig_for(a_tenant(1e5), H100)
    assert flood.profile is None
    assert "only a whole H100-SXM carries a: 4g.40gb misses the SLO" in flood.because
    strict = mig_for(a_tenant(0.5, slo=Slo(itl_s=1.1e-3)), H100)
    assert strict.profile is None


def test_cards_without_mig_and_replicas_of_several_gpus_get_none() -> None:
    tenant = a_tenant()
    other = replace(tenant, profile=replace(tenant.profile, gpu="L4"))
    assert "cannot be cut" in mig_for(other, find_gpu("L4")).because
    wide = replace(
        tenant,
        profile=replace(tenant.profile, layout=Layout(tensor=2)),
        configuration=replace(tenant.configuration, tensor_parallel_size=2),
    )
    assert "spans 2 GPUs" in mig_for(wide, H100).because


@pytest.mark.parametrize("name", ["1g.10gb", "1g.20gb", "2g.20gb", "3g.40gb", "4g.40gb"])
def test_a_slice_costs_what_its_own_data_sheet_says(name: str) -> None:
    model = "meta-llama/Llama-3.2-1B-Instruct"
    profile = find_mig_profile(H100, name)
    derived = slice_profile(resolve_profile(model, "H100-SXM"), H100, profile)
    architecture, part = load_architecture(model), as_gpu(H100, profile)
    efficiency, _ = find_efficiency(architecture, H100.name)
    sheet = analytical_cost(Replica(architecture, part, efficiency=efficiency))
    assert derived.memory == predict_memory(architecture, part)
    np.testing.assert_allclose(derived.cost.dense_s, sheet.dense_s, rtol=0.02)
    assert derived.cost.kv_token_s == pytest.approx(sheet.kv_token_s)
    assert derived.cost.prefill_pair_s == pytest.approx(sheet.prefill_pair_s)


def test_slices_are_tried_from_the_smallest_on() -> None:
    sizes = [(p.memory_slices, p.compute_slices) for p in mig_profiles(H100)]
    assert sizes == sorted(sizes)
