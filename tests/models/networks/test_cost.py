"""What networks cost: counts by hand, and times and memory that are what they say."""

from __future__ import annotations

import time

import pytest
import torch
from torch import Tensor, nn

from facestream import BackendUnavailable
from facestream.models.caface_head import HeadSize
from facestream.models.networks.backbone import make_backbone
from facestream.models.networks.caface import CAFace
from facestream.models.networks.cost import (
    count_multiply_adds,
    count_parameters,
    find_device,
    measure_alternately,
    noise,
    peak_bytes,
    single_thread,
)
from facestream.models.networks.sets import full_sets

CPU = torch.device("cpu")


def test_parameters_are_the_published_counts() -> None:
    with torch.device("meta"):
        counts = {depth: count_parameters(make_backbone(f"iresnet{depth}")) for depth in (18, 100)}
    assert counts == {18: 24_025_600, 100: 65_156_160}
    assert count_parameters(CAFace(HeadSize(512, 384, 4))) == 786_524


def test_multiply_adds_of_a_miniature_by_hand() -> None:
    network = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1),  # 5 x 5 places, 4 channels, 3 * 9 products each
        nn.BatchNorm2d(4),
        nn.Conv2d(4, 4, 3, groups=4),  # 3 x 3 places, 4 channels, 9 each
        nn.PReLU(4),
        nn.Flatten(),
        nn.Linear(36, 7),
    ).eval()
    images = torch.zeros(2, 3, 5, 5)
    by_hand = 25 * 4 * 27 + 9 * 4 * 9 + 36 * 7
    assert count_multiply_adds(lambda: network(images)) == 2 * by_hand


def test_multiply_adds_of_attention_are_counted() -> None:
    queries, keys, values = torch.zeros(3, 2, 8, 6, 5).unbind()

    def attend() -> Tensor:
        return nn.functional.scaled_dot_product_attention(queries, keys, values)

    # B 2, heads 8, 6 tokens with 6, width 5: the products, then the weighted sum.
    assert count_multiply_adds(attend) == 2 * (2 * 8 * 6 * 6 * 5)


def test_multiply_adds_of_caface_by_hand() -> None:
    size, faces = HeadSize(dimension=512, styles=384, centres=4), 16
    network = CAFace(size).eval()
    sets = full_sets(noise(1, faces, 512, device=CPU), noise(1, faces, 384, 2, device=CPU))
    tokens, width, centres = faces + 4, 128, 4
    style = faces * 384 * 64
    block = tokens * width * (3 + 1 + 4 + 4) * width + 2 * tokens * tokens * width
    assign = (centres + faces) * width * width + centres * faces * width
    sums = centres * faces * (512 + width)
    mixer = 2 * width * 2 * centres * 2 * centres + centres * 2 * (2 * width) * width
    head = centres * (256 * 256 + 256 * 512)
    by_hand = style + 2 * block + assign + sums + 2 * mixer + head
    assert count_multiply_adds(lambda: network(sets)) == by_hand


def test_works_take_turns_and_times_are_of_one_call() -> None:
    calls: list[str] = []

    def work(name: str, seconds: float) -> None:
        calls.append(name)
        until = time.process_time() + seconds
        while time.process_time() < until:
            pass

    works = {"long": lambda: work("long", 0.02), "short": lambda: work("short", 0.005)}
    found = measure_alternately(works, 2, CPU, least=0.01)
    assert calls[:2] == ["long", "short"]  # the first of each does not count
    assert calls[2] == "long" and calls[-1] == "long"
    assert all(one >= 0.02 for one in found["long"]) and len(found["long"]) == 2
    assert all(one >= 0.005 for one in found["short"])
    assert calls.count("short") == 1 + 2 * 2


def test_memory_is_what_a_call_takes_at_most() -> None:
    def allocate() -> None:
        torch.ones(16, 1 << 20)  # 64 MiB
        torch.ones(8, 1 << 20)

    taken = peak_bytes(allocate, CPU)
    if taken is None:
        pytest.skip("this system does not tell how much memory a process took")
    assert 50e6 < taken < 120e6


def test_threads_are_as_before_afterwards() -> None:
    before = torch.get_num_threads()
    with single_thread():
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == before


def test_devices_that_are_not_here_are_refused() -> None:
    assert find_device("cpu") == CPU
    with pytest.raises(BackendUnavailable, match="cpu or cuda, got 'tpu'"):
        find_device("tpu")
    if not torch.cuda.is_available():
        with pytest.raises(BackendUnavailable, match="no CUDA device"):
            find_device("cuda")
