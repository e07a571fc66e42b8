"""Classes spread over two real processes: loss and gradients are those of one."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, multiprocessing
from torch import distributed as dist
from torch.nn.parallel import DistributedDataParallel

from facestream import ConfigError, RecordError
from facestream.models.networks.adaptive_margins import (
    AdaFace,
    CurricularFace,
    ElasticArcFace,
    ElasticCosFace,
)
from facestream.models.networks.class_layer import ClassLayer
from facestream.models.networks.magface import MagCosFace, MagFace
from facestream.models.networks.margins import ArcFace, CosFace, Margin
from facestream.models.networks.row_shards import RowShards, RowSlice, take_rows

DIMENSION, FACES = 8, 12
CLASSES = (13, 10, 2)  # an odd count, an even one, and one class per process
DTYPES = (torch.float64, torch.float32)


def make_margin(name: str) -> Margin:
    kinds = {
        "arcface": ArcFace,
        "straight": lambda: ArcFace(straight_through=True),
        "cosface": CosFace,
        "adaface": AdaFace,
        "curricularface": CurricularFace,
        "elastic": ElasticArcFace,
        "elastic+": lambda: ElasticCosFace(sort_margins=True),
        "magface": MagFace,
        "magcosface": MagCosFace,
    }
    return kinds[name]()


NAMES = (
    "arcface",
    "straight",
    "cosface",
    "adaface",
    "curricularface",
    "elastic",
    "elastic+",
    "magface",
    "magcosface",
)


def whole_batch(classes: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(5)
    features = 12 * torch.randn(FACES, DIMENSION, generator=draw, dtype=torch.float64)
    return features.to(dtype), torch.randint(classes, (FACES,), generator=draw)


def run_steps(layer: ClassLayer, features: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """Two steps, so that running statistics count; losses, last gradients and the state."""
    first = layer(features, labels)
    features = features.clone().requires_grad_()
    second = layer(features, labels)
    second.backward()
    assert features.grad is not None and layer.weight.grad is not None
    return {
        "losses": torch.stack([first, second]).detach(),
        "features": features.grad,
        "weight": layer.weight.grad,
        "rows": layer.weight.detach(),
        **{f"state {name}": value for name, value in layer.margin.state_dict().items()},
    }


def backbone() -> torch.nn.Linear:
    torch.manual_seed(3)
    return torch.nn.Linear(5, DIMENSION).double()


def images_of(classes: int) -> Tensor:
    draw = torch.Generator().manual_seed(6)
    return 9 * torch.randn(FACES, 5, generator=draw, dtype=torch.float64)


def work(rank: int, folder: str) -> None:
    """What each of the two processes does; their files are compared."""
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder}/meet",
        rank=rank,
        world_size=2,
        timeout=timedelta(minutes=2),
    )
    group = dist.group.WORLD
    half = slice(rank * FACES // 2, (rank + 1) * FACES // 2)
    found: dict[str, Any] = {}
    for classes in CLASSES:
        for name in NAMES:
            for dtype in DTYPES:
                layer = ClassLayer(DIMENSION, classes, make_margin(name), group=group).to(dtype)
                features, labels = whole_batch(classes, dtype)
                found[f"{name} {classes} {dtype}"] = run_steps(layer, features[half], labels[half])
    found["ddp"] = ddp_gradients(group, half)
    found["sampled"] = sampled_step(group, half)
    found["own rows"] = tuple(ClassLayer(DIMENSION, 13, ArcFace(), group=group).own_rows())
    found["refused"] = refusals(group, rank)
    torch.save(found, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def ddp_gradients(group: dist.ProcessGroup, half: slice) -> Tensor:
    """Gradient of a data-parallel network before the layer."""
    network = DistributedDataParallel(backbone(), process_group=group)
    layer = ClassLayer(DIMENSION, 13, MagFace(), group=group, averaged_gradients=True).double()
    labels = whole_batch(13, torch.float64)[1]
    layer(network(images_of(13)[half]), labels[half]).backward()
    assert network.module.weight.grad is not None
    return network.module.weight.grad


def sampled_step(group: dist.ProcessGroup, half: slice) -> dict[str, Tensor]:
    layer = ClassLayer(DIMENSION, 401, CosFace(), sample_rate=0.1, group=group).double()
    features, labels = whole_batch(401, torch.float64)
    result = run_steps(layer, features[half], labels[half])
    result["steps"] = layer.steps
    return result


def refusals(group: dist.ProcessGroup, rank: int) -> list[str]:
    """Messages that both processes must get, though only one is at fault."""
    messages = []
    layer = ClassLayer(DIMENSION, 13, ArcFace(), group=group)
    features = torch.ones(3, DIMENSION)
    labels = torch.tensor([0, 1, 2])
    try:
        layer(features[rank:], labels[rank:])
    except RecordError as error:
        messages.append(str(error))
    try:
        layer(features, labels + 12 * rank)
    except RecordError as error:
        messages.append(str(error))
    try:
        RowShards(1, group)
    except ConfigError as error:
        messages.append(str(error))
    return messages


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """Rank 0 is this process, which has torch loaded already; rank 1 is one of its own."""
    folder: Path = tmp_path_factory.mktemp("ranks")
    other = multiprocessing.get_context("spawn").Process(target=work, args=(1, str(folder)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GLOO_SOCKET_IFNAME", "lo")
        run_both(other, str(folder))
    return [torch.load(folder / f"{rank}.pt") for rank in range(2)]


def run_both(other: multiprocessing.Process, folder: str) -> None:
    other.start()
    try:
        work(0, folder)
        other.join(120)
        assert other.exitcode == 0
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()
        other.kill()
        other.join()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("classes", CLASSES)
@pytest.mark.parametrize("name", NAMES)
def test_two_processes_are_one(
    ranks: list[dict[str, Any]], name: str, classes: int, dtype: torch.dtype
) -> None:
    layer = ClassLayer(DIMENSION, classes, make_margin(name)).to(dtype)
    expected = run_steps(layer, *whole_batch(classes, dtype))
    parts = [rank[f"{name} {classes} {dtype}"] for rank in ranks]
    for part in parts:
        assert part.keys() == expected.keys()
    for key, value in expected.items():
        close = {"rtol": 0.0, "atol": 1e-12}
        if dtype == torch.float32:  # of the largest: gradients carry the factor s = 64
            close["atol"] = 1e-6 * max(1.0, float(value.abs().max()))
        if key in ("features", "weight", "rows"):
            together = torch.cat([part[key] for part in parts])
            torch.testing.assert_close(together, value, **close)
        else:
            for part in parts:
                torch.testing.assert_close(part[key], value, **close)
    assert torch.equal(parts[0]["losses"], parts[1]["losses"])


def test_a_data_parallel_network_gets_the_gradient_of_the_whole_batch(
    ranks: list[dict[str, Any]],
) -> None:
    network = backbone()
    layer = ClassLayer(DIMENSION, 13, MagFace()).double()
    layer(network(images_of(13)), whole_batch(13, torch.float64)[1]).backward()
    for rank in ranks:
        torch.testing.assert_close(rank["ddp"], network.weight.grad, rtol=0, atol=1e-12)


def test_each_process_samples_its_own_classes(ranks: list[dict[str, Any]]) -> None:
    labels = whole_batch(401, torch.float64)[1]
    used = []
    for rank, low, high in ((0, 0, 201), (1, 201, 401)):
        touched = ranks[rank]["sampled"]["weight"].abs().sum(dim=1).nonzero()[:, 0]
        own = {int(label) - low for label in labels if low <= label < high}
        assert own <= set(touched.tolist())
        assert len(touched) == 20 and int(ranks[rank]["sampled"]["steps"]) == 2
        used.append(touched.tolist())
    assert used[0] != used[1]
    assert torch.equal(ranks[0]["sampled"]["losses"], ranks[1]["sampled"]["losses"])


def test_slices_of_two_processes_are_the_matrix_of_one(ranks: list[dict[str, Any]]) -> None:
    whole = ClassLayer(DIMENSION, 13, ArcFace())
    slices = [RowSlice(*rank["own rows"]) for rank in ranks]
    assert [(s.offset, len(s.rows)) for s in slices] == [(0, 7), (7, 6)]
    assert torch.equal(take_rows(slices, 0, 13), whole.weight)
    other = ClassLayer(DIMENSION, 13, ArcFace(), seed=1)
    other.load_rows(slices)
    assert torch.equal(other.weight, whole.weight)


def test_what_one_process_does_wrong_both_are_told(ranks: list[dict[str, Any]]) -> None:
    assert ranks[0]["refused"] == ranks[1]["refused"]
    sizes, labels, few = ranks[0]["refused"]
    assert (
        "[3, 2]" in sizes and "0..14" in labels and "1 rows cannot be dealt to 2 processes" in few
    )
