"""Slices of a GPU: the driver's figures, the driver's placement rules, a GPU type each."""

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from profiler.errors import Refused
from profiler.hardware import GIB, GPUS, Dtype, find_gpu
from profiler.mig import (
    COMPUTE_SLICES,
    MEMORY_SLICES,
    as_gpu,
    find_mig_profile,
    fits_together,
    geometries,
    mig_profiles,
)

CUT = ("A100-40GB", "A100-80GB", "H100-SXM", "H100-PCIe", "H200", "B200")


def names(*cut: str) -> tuple[str, ...]:
    return cut


@pytest.mark.parametrize("name", CUT)
def test_a_slice_is_never_more_than_its_share_of_the_card(name: str) -> None:
    gpu = find_gpu(name)
    for profile in mig_profiles(gpu):
        part = as_gpu(gpu, profile)
        assert part.memory_bytes <= gpu.memory_bytes * profile.memory_slices / MEMORY_SLICES
        assert part.bandwidth_bytes_s <= gpu.bandwidth_bytes_s
        assert part.flops(Dtype.BF16) <= gpu.flops(Dtype.BF16)
        assert part.name == f"{name}/{profile.name}"
        assert part.link_domain == 1


@pytest.mark.parametrize("name", CUT)
def test_all_slices_of_a_geometry_are_no_more_than_the_card(name: str) -> None:
    gpu = find_gpu(name)
    assert geometries(gpu)
    for cut in geometries(gpu):
        assert sum(p.memory_bytes for p in cut) <= gpu.memory_bytes
        assert sum(p.memory_slices for p in cut) <= MEMORY_SLICES
        assert sum(p.compute_slices for p in cut) <= COMPUTE_SLICES
        assert sum(p.compute_ratio for p in cut) <= 1.0
        assert fits_together(gpu, cut)


@pytest.mark.parametrize("name", CUT)
def test_as_many_instances_of_one_profile_fit_as_nvidia_lists(name: str) -> None:
    gpu = find_gpu(name)
    for profile in mig_profiles(gpu):
        assert fits_together(gpu, [profile] * profile.count_max)
        assert not fits_together(gpu, [profile] * (profile.count_max + 1))


def test_names_and_memory_are_those_of_the_driver() -> None:
    h100 = {p.name: p for p in mig_profiles(find_gpu("H100-SXM"))}
    assert list(h100) == ["1g.10gb", "1g.20gb", "2g.20gb", "3g.40gb", "4g.40gb", "7g.80gb"]
    assert h100["1g.10gb"].memory_bytes == 9.75 * GIB
    assert h100["1g.10gb"].compute_ratio == 16 / 132
    assert [p.name for p in mig_profiles(find_gpu("A100-40GB"))][:3] == [
        "1g.5gb", "1g.10gb", "2g.10gb",
    ]  # fmt: skip
    assert [p.name for p in mig_profiles(find_gpu("B200"))][-1] == "7g.180gb"


@pytest.mark.parametrize(
    ("cut", "possible"),
    [
        (names("3g.40gb", "3g.40gb"), True),
        (names("4g.40gb", "3g.40gb"), True),
        (names("4g.40gb", "4g.40gb"), False),
        (names("3g.40gb", "2g.20gb", "1g.10gb"), True),
        (names("2g.20gb", "2g.20gb", "2g.20gb", "1g.10gb"), True),
        (names("2g.20gb", "2g.20gb", "2g.20gb", "1g.20gb"), True),
        (names("3g.40gb", "3g.40gb", "1g.10gb"), False),  # all memory is taken
        (names("4g.40gb", "2g.20gb", "2g.20gb"), False),  # 2g may not start at slice 6
        (names("4g.40gb", "2g.20gb", "1g.20gb"), True),
        (names("7g.80gb", "1g.10gb"), False),
        (names(), True),
    ],
)
def test_slices_go_where_the_driver_places_them(cut: tuple[str, ...], possible: bool) -> None:
    gpu = find_gpu("H100-SXM")
    assert fits_together(gpu, [find_mig_profile(gpu, name) for name in cut]) is possible


@given(st.lists(st.sampled_from(range(6)), max_size=8), st.randoms())
def test_the_order_of_slices_makes_no_difference(picks: list[int], random: Random) -> None:
    gpu = find_gpu("H200")
    cut = [mig_profiles(gpu)[i] for i in picks]
    shuffled = cut.copy()
    random.shuffle(shuffled)
    assert fits_together(gpu, cut) == fits_together(gpu, shuffled)


@given(st.lists(st.sampled_from(range(6)), min_size=1, max_size=7))
def test_a_part_of_what_fits_fits(picks: list[int]) -> None:
    gpu = find_gpu("A100-80GB")
    cut = [mig_profiles(gpu)[i] for i in picks]
    if fits_together(gpu, cut):
        assert fits_together(gpu, cut[1:])


def test_a_profile_of_another_card_does_not_fit() -> None:
    other = mig_profiles(find_gpu("B200"))[0]
    assert not fits_together(find_gpu("H100-SXM"), [other])


def test_cards_without_mig_have_no_slices() -> None:
    for gpu in GPUS.values():
        assert bool(mig_profiles(gpu)) == (gpu.name in CUT)
    assert geometries(find_gpu("L4")) == ()


def test_an_unknown_profile_is_refused_with_those_there_are() -> None:
    with pytest.raises(Refused, match=r"1g\.10gb, 1g\.20gb"):
        find_mig_profile(find_gpu("H100-SXM"), "5g.50gb")
    with pytest.raises(Refused, match="no MIG"):
        find_mig_profile(find_gpu("L40S"), "1g.10gb")
