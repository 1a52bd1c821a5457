"""What each precision needs against what is free, and which one is taken on which device."""

from __future__ import annotations

import pytest

from cxr_assistant.errors import OutOfMemory, SettingsError
from cxr_assistant.models.precision import (
    GIB,
    Device,
    Footprint,
    Precision,
    choose_fit,
    list_fits,
    read_device,
    torch_dtype,
)

SEVEN_BILLION = Footprint(6_844_926_464, 6_476_005_376)  # LLaVA-Rad; 32 blocks of linear layers
TINY = Footprint(8_000_000, 6_000_000)


def cuda(free_gib: float, capability: tuple[int, int]) -> Device:
    return Device("cuda", "a GPU", int(free_gib * GIB), int(free_gib * GIB), capability)


def cpu(free_gib: float) -> Device:
    return Device("cpu", "CPU", int(free_gib * GIB), int(free_gib * GIB))


@pytest.mark.parametrize(
    ("device", "expected"),
    [
        pytest.param(cuda(39, (8, 0)), Precision.BF16, id="a100-40"),
        pytest.param(cuda(23, (8, 9)), Precision.BF16, id="l4"),
        pytest.param(cuda(31, (7, 0)), Precision.FP16, id="v100-32"),
        pytest.param(cuda(15.5, (7, 0)), Precision.FP16, id="v100-16"),
        pytest.param(cuda(14.5, (7, 5)), Precision.FP16, id="t4"),
        pytest.param(cuda(11, (8, 6)), Precision.INT8, id="3060"),
        pytest.param(cuda(7.5, (8, 6)), Precision.NF4, id="8-gib-card"),
        pytest.param(cpu(64), Precision.BF16, id="workstation"),
    ],
)
def test_a_7b_model_takes_the_best_that_fits(device: Device, expected: Precision) -> None:
    assert choose_fit(SEVEN_BILLION, device).precision is expected


def test_a_small_model_runs_in_float32_on_the_cpu() -> None:
    assert choose_fit(TINY, cpu(4)).precision is Precision.FP32


def test_the_published_weights_need_what_their_files_weigh() -> None:
    assert SEVEN_BILLION.num_bytes(Precision.FP16) == 2 * 6_844_926_464
    assert SEVEN_BILLION.num_bytes(Precision.NF4) / 1e9 == pytest.approx(4.1, abs=0.2)
    assert SEVEN_BILLION.num_bytes(Precision.INT8) / 1e9 == pytest.approx(7.2, abs=0.1)


@pytest.mark.parametrize("capability", [(7, 0), (7, 5)], ids=["v100", "t4"])
def test_bf16_is_not_offered_before_ampere(capability: tuple[int, int]) -> None:
    with pytest.raises(SettingsError, match="bf16 is not offered"):
        choose_fit(SEVEN_BILLION, cuda(80, capability), asked="bf16")


def test_a_persons_choice_wins_where_it_fits() -> None:
    assert choose_fit(SEVEN_BILLION, cuda(80, (9, 0)), asked="nf4").precision is Precision.NF4
    with pytest.raises(OutOfMemory, match="fp32 needs 27"):
        choose_fit(SEVEN_BILLION, cuda(16, (8, 0)), asked="fp32")


def test_what_fits_nowhere_is_a_sentence_with_figures() -> None:
    with pytest.raises(OutOfMemory, match=r"does not fit .*nf4 needs 5\.\d GiB of 3\.0 GiB free") as caught:
        choose_fit(SEVEN_BILLION, cuda(3, (8, 6)))
    assert "smaller model" in caught.value.hint


def test_layers_stay_on_disk_only_as_the_last_resort() -> None:
    assert choose_fit(SEVEN_BILLION, cuda(7.5, (8, 6)), may_offload=True).precision is Precision.NF4
    for device in (cuda(4.5, (8, 6)), cpu(4.5)):
        assert choose_fit(SEVEN_BILLION, device, may_offload=True).precision is Precision.OFFLOAD
    with pytest.raises(OutOfMemory):
        choose_fit(SEVEN_BILLION, cpu(1), may_offload=True)
    with pytest.raises(OutOfMemory):
        choose_fit(SEVEN_BILLION, cpu(4.5), asked="bf16", may_offload=True)


def test_the_table_has_a_line_per_precision() -> None:
    sentences = [fit.sentence for fit in list_fits(SEVEN_BILLION, cuda(22.1, (7, 5)))]
    assert sentences[1] == "bf16 is not offered on this device"
    assert sentences[2] == "fp16 needs 14.2 GiB of 22.1 GiB free"
    assert len(sentences) == len(Precision)


def test_an_unknown_precision_lists_the_allowed_ones() -> None:
    with pytest.raises(SettingsError, match="'fp8'; allowed: auto, fp32, bf16, fp16, int8, nf4, offload"):
        choose_fit(TINY, cpu(4), asked="fp8")
    with pytest.raises(SettingsError, match="'nf4'; allowed: fp32, bf16, fp16"):
        torch_dtype("nf4")


def test_this_computer_has_a_cpu_with_free_memory() -> None:
    device = read_device("cpu")
    assert 0 < device.free_bytes <= device.total_bytes
    assert not device.is_cuda


def test_a_cuda_device_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(SettingsError, match="finds no CUDA device"):
        read_device("cuda")
    assert read_device("auto").name == "cpu"
