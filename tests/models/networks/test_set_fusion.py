"""The fusers CAFace is compared with: sizes, masks, order, and what each does to a set."""

import copy
import functools

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from facestream import ConfigError, RecordError
from facestream.models.fusion import Members
from facestream.models.ida import Anchors
from facestream.models.mean_fusion import QualityMean
from facestream.models.networks.caface_losses import template_loss
from facestream.models.networks.set_fusion import (
    CFAN,
    NAN,
    PFE,
    MeanFuser,
    NormWeighted,
    QualityWeighted,
    StyleWeighted,
    UncertaintyHead,
)
from facestream.models.networks.set_fusion_context import RSA, RecurrentFuser
from facestream.models.networks.sets import FaceSets, full_sets, pad_sets
from facestream.models.networks.synthetic import SyntheticSets
from facestream.models.search import SearchIndex

C, K, D, SIDE = 6, 3, 16, 2


def tiny_head(maps: torch.Tensor) -> torch.Tensor:
    """The head of a backbone whose maps hold the embedding: the mean over places, C of D."""
    return maps.mean(dim=(2, 3))[:, :C]


MAKERS = {
    "mean": lambda: MeanFuser(C),
    "norm": lambda: NormWeighted(C),
    "quality": lambda: QualityWeighted(C),
    "style": lambda: StyleWeighted(C, K, hidden=8),
    "nan": lambda: NAN(C),
    "cfan": lambda: CFAN(C, D, side=SIDE),
    "pfe": lambda: PFE(C, D, side=SIDE),
    "pfe large": lambda: PFE(C, D, side=SIDE, layout="large"),
    "recurrent": lambda: RecurrentFuser(C),
    "rsa": lambda: RSA(D, tiny_head),
}
WEIGHTED = [name for name in MAKERS if name not in ("recurrent", "rsa")]
every_fuser = pytest.mark.parametrize("name", MAKERS)
weighted_fusers = pytest.mark.parametrize("name", WEIGHTED)


@functools.cache
def _lively(name: str) -> nn.Module:
    torch.manual_seed(1)
    fuser = MAKERS[name]().double().eval()
    with torch.no_grad():
        for parameter in fuser.parameters():
            parameter.add_(torch.randn_like(parameter))
        for label, buffer in fuser.named_buffers():
            if label.endswith("running_var"):
                buffer.uniform_(0.5, 2.0)
    return fuser


def lively(name: str) -> nn.Module:
    """A float64 fuser far from its start, so that it tells faces apart; evaluation mode."""
    return copy.deepcopy(_lively(name))


def make_sets(count: int, faces: int, seed: int = 0) -> FaceSets:
    draw = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(count, faces, *shape, generator=draw, dtype=torch.float64)

    return full_sets(normal(C) * (1 + normal(1).abs()), normal(K, 2), normal(), normal(D, 2, 2))


def reorder(sets: FaceSets, order) -> FaceSets:
    return FaceSets(*(field[:, torch.as_tensor(order)] for field in sets))


def same(first: torch.Tensor, second: torch.Tensor, tolerance: float = 1e-12) -> None:
    torch.testing.assert_close(first, second, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(
    ("make", "count"),
    [
        (lambda: CFAN(512, 512), 12_845_568),
        (lambda: PFE(512, 512, layout="large"), 13_370_880),
        (lambda: PFE(512, 512), 13_108_226),
        (lambda: NAN(512), 512 + 512**2 + 512),
        (lambda: RSA(512, tiny_head), 10 * 512**2),
        (lambda: StyleWeighted(512, 384), 2 * 768 + 768 * 64 + 64 + 65),
        (lambda: RecurrentFuser(512), 6 * 512**2 + 6 * 512 + 512**2 + 512),
        (lambda: MeanFuser(512), 0),
    ],
    ids=["cfan", "pfe large", "pfe", "nan", "rsa", "style", "recurrent", "mean"],
)
def test_parameter_counts(make, count):
    with torch.device("meta"):
        assert sum(parameter.numel() for parameter in make().parameters()) == count


@every_fuser
def test_padding_changes_nothing_wherever_it_stands_and_whatever_it_holds(name):
    fuser, short, long = lively(name), make_sets(1, 3), make_sets(2, 5, seed=1)
    batch = pad_sets([short, long])
    # The first set's faces at places 0, 2, 4; rubbish between them.
    batch = FaceSets(*(torch.cat([part[:1, [0, 3, 1, 4, 2]], part[1:]]) for part in batch))
    fields = []
    for field in batch:
        if field.dtype != torch.bool:
            padding = ~batch.mask.reshape(*batch.mask.shape, *(1,) * (field.ndim - 2))
            field = field.masked_fill(padding, float("nan")).requires_grad_()
        fields.append(field)
    batch = FaceSets(*fields)
    fused = fuser(batch)
    same(fused, torch.cat([fuser(short), fuser(long)]))
    fused.square().sum().backward()
    for field in batch:
        if field.grad is not None:
            assert field.grad.isfinite().all()
            assert not field.grad[~batch.mask].any()


@every_fuser
def test_order_matters_to_the_recurrent_one_alone(name):
    fuser, sets = lively(name), make_sets(4, 5)
    first, second = fuser(sets), fuser(reorder(sets, [3, 0, 4, 2, 1]))
    if name == "recurrent":
        assert (first - second).abs().amax(dim=1).min() > 1e-2
    else:
        same(first, second)


@weighted_fusers
def test_one_face_gives_its_own_direction_and_so_do_equal_ones(name):
    fuser, sets = lively(name), make_sets(3, 1)
    if name == "quality":
        sets = sets._replace(quality=-sets.quality.abs())  # also when it is worth nothing
    direction = F.normalize(sets.features[:, 0], dim=1)
    same(fuser(sets), direction)
    same(fuser(reorder(sets, [0, 0, 0, 0])), direction)


@weighted_fusers
def test_weights_sum_to_one_and_make_the_mean(name):
    fuser, sets = lively(name), pad_sets([make_sets(1, 2), make_sets(2, 4, seed=1)])
    weights = fuser.weigh(sets)
    assert weights.shape in ((3, 4), (3, 4, C))
    assert (weights >= 0).all() and not weights[0, 2:].any()
    same(weights.sum(dim=1), torch.ones_like(weights[:, 0]))
    wide = weights if weights.ndim == 3 else weights[..., None]
    same(fuser(sets), (wide * F.normalize(sets.features, dim=2)).sum(dim=1))
    # No component leaves the range of the faces it is made of.
    units = F.normalize(sets.features, dim=2)[1:]
    assert (fuser(sets)[1:] <= units.amax(dim=1) + 1e-12).all()


@pytest.mark.parametrize("name", ["style", "nan", "cfan", "pfe", "pfe large"])
def test_untrained_ones_are_the_plain_mean(name):
    sets = make_sets(3, 4)
    fuser = MAKERS[name]().double().eval()
    tolerance = 2e-3 if name == "pfe" else 1e-12  # PFE's scale starts at 1e-4, not at 0
    same(fuser(sets), MeanFuser(C)(sets), tolerance)


def test_untrained_rsa_embeds_the_mean_map():
    sets = make_sets(2, 3)
    same(RSA(D, tiny_head).double()(sets), tiny_head(sets.maps.mean(dim=1)))
    one = make_sets(2, 1)
    same(RSA(D, tiny_head).double()(one), tiny_head(one.maps[:, 0]))


def test_the_head_of_a_backbone_is_not_part_of_rsa():
    class Stem(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(D, C)

        def head(self, maps: torch.Tensor) -> torch.Tensor:
            return self.fc(maps.mean(dim=(2, 3)))

    fuser = RSA(D, Stem().head)
    assert not [name for name in fuser.state_dict() if "head" in name or "fc.w" in name]


def test_faces_of_a_set_see_each_other_in_rsa_but_other_sets_do_not():
    fuser, sets = lively("rsa"), make_sets(2, 3)
    together = fuser(sets)
    same(together[:1], fuser(FaceSets(*(field[:1] for field in sets))))
    # Were it not for attention, a set would be the mean of its faces, each by itself.
    alone = torch.stack([fuser(sets.take(slice(face, face + 1))) for face in range(3)]).mean(dim=0)
    assert (together - alone).abs().amax(dim=1).min() > 1e-2


def test_norm_weights_give_the_direction_of_the_raw_mean():
    sets = make_sets(3, 4)
    fused = F.normalize(NormWeighted(C)(sets), dim=1)
    same(fused, F.normalize(sets.features.mean(dim=1), dim=1))


@pytest.mark.parametrize("shift", [0.0, 2.0, -9.0], ids=["mixed", "all good", "none good"])
def test_quality_weights_are_those_of_the_live_aggregator(shift):
    sets = make_sets(1, 5)
    quality = sets.quality + shift
    live = QualityMean(C)
    features = sets.features[0].float().numpy()
    members = Members(
        features,
        np.linalg.norm(features, axis=1),
        quality[0].float().numpy(),
        np.zeros((5, 0, 2), np.float32),
    )
    expected = live.read(live.update(live.empty(), members))
    fused = F.normalize(QualityWeighted(C)(sets._replace(quality=quality)), dim=1)
    np.testing.assert_allclose(fused[0].numpy(), expected, atol=1e-6)


def test_tiny_qualities_count_as_much_as_large_ones():
    sets = make_sets(1, 3)
    quality = torch.tensor([[1.0, 2.0, 5.0]], dtype=torch.float64)
    fuser = QualityWeighted(C)
    same(fuser(sets._replace(quality=1e-300 * quality)), fuser(sets._replace(quality=quality)))


def test_a_quality_that_is_not_a_number_does_not_pass_for_no_quality():
    sets = make_sets(2, 3)
    quality = sets.quality.abs()
    quality[0, 1] = float("nan")
    fused = QualityWeighted(C)(sets._replace(quality=quality))
    assert fused[0].isnan().all()
    assert fused[1].isfinite().all()


def test_nan_by_hand():
    # Faces along the axes. q0 = (log 3, 0): r0 = (3/4, 1/4), and q1 = tanh(r0) with W the identity.
    fuser = NAN(2)
    with torch.no_grad():
        fuser.query.copy_(torch.tensor([3.0, 1.0]).log())
        fuser.transfer.weight.copy_(torch.eye(2))
    weights = fuser.weigh(full_sets(torch.tensor([[[2.0, 0.0], [0.0, 5.0]]])))
    expected = torch.softmax(torch.tanh(torch.tensor([[0.75, 0.25]])), dim=1)
    same(weights, expected, 1e-6)


def test_cfan_by_hand():
    # The map is one number x; q = (x, -x): the first dimension prefers large x, the second small.
    fuser = CFAN(2, 1, side=1)
    with torch.no_grad():
        fuser.fc.weight.copy_(torch.tensor([[1.0], [-1.0]]))
    units = torch.tensor([[[1.0, 0.0], [0.6, 0.8]]])
    maps = torch.log(torch.tensor([1.0, 3.0])).reshape(1, 2, 1, 1, 1)
    weights = fuser.weigh(full_sets(5 * units, maps=maps))
    same(weights, torch.tensor([[[0.25, 0.75], [0.75, 0.25]]]), 1e-6)
    fused = fuser(full_sets(5 * units, maps=maps))
    same(fused, torch.tensor([[0.25 + 0.75 * 0.6, 0.25 * 0.8]]), 1e-6)


def test_pfe_by_hand():
    # Variances exp(x) and exp(2x) for x = 0 and log 3: weights 3 : 1 and 9 : 1.
    fuser = PFE(2, 1, side=1, layout="large").eval()
    with torch.no_grad():
        for layer, weight in zip(
            (fuser.head.layers[0], fuser.head.layers[2], fuser.head.layers[4]),
            (torch.ones(2, 1), torch.eye(2), torch.diag(torch.tensor([1.0, 2.0]))),
            strict=True,
        ):
            layer.weight.copy_(weight)
            layer.bias.zero_()
    units = torch.tensor([[[1.0, 0.0], [0.6, 0.8]]])
    maps = torch.log(torch.tensor([1.0, 3.0])).reshape(1, 2, 1, 1, 1)
    template = fuser.fuse(full_sets(2 * units, maps=maps))
    expected = torch.tensor([[(3 * 1.0 + 0.6) / 4, (9 * 0.0 + 0.8) / 10]])
    same(template.means, expected, 1e-5)
    same(template.means, fuser(full_sets(2 * units, maps=maps)), 1e-6)
    same(template.log_variances, torch.zeros(1, 2), 1e-5)  # the least of the set
    logs = fuser.log_variances(full_sets(2 * units, maps=maps))
    same(logs[0].exp(), torch.tensor([[1.0, 1.0], [3.0, 9.0]]), 1e-5)


def test_pfe_templates_do_not_see_padding():
    fuser, short, long = lively("pfe"), make_sets(1, 2), make_sets(1, 5, seed=1)
    batch = pad_sets([short, long])
    for mine, first, second in zip(
        fuser.fuse(batch), fuser.fuse(short), fuser.fuse(long), strict=True
    ):
        same(mine, torch.cat([first, second]))
    logs = fuser.log_variances(batch)
    assert not logs[0, 2:].any()
    same(fuser.fuse(batch).log_variances[0], logs[0, :2].amin(dim=0))


def test_pfe_starts_near_the_published_variance_and_never_goes_below_its_floor():
    torch.manual_seed(0)
    rows = torch.randn(8, 20)
    for layout in ("paper", "large"):
        logs = UncertaintyHead(20, C, layout=layout)(rows)
        same(logs, torch.full((8, C), float(np.log(1e-6 + np.exp(-7.0)))), 1e-3)
    head = UncertaintyHead(20, C)
    with torch.no_grad():
        head.shift.fill_(-500.0)
    logs = head(rows)
    same(logs, torch.full((8, C), float(np.log(1e-6))), 1e-6)
    logs.sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in head.parameters())


@pytest.mark.parametrize("name", ["pfe", "style"])
def test_batch_statistics_are_those_of_the_faces_without_padding(name):
    torch.manual_seed(0)
    padded, plain = MAKERS[name]().double(), MAKERS[name]().double()
    plain.load_state_dict(padded.state_dict())
    sets = make_sets(1, 4)
    longer = FaceSets(*(torch.cat([field, field], dim=1) for field in sets))
    mask = torch.arange(8)[None] < 4
    same(padded(longer._replace(mask=mask)), plain(sets))
    for mine, theirs in zip(padded.buffers(), plain.buffers(), strict=True):
        same(mine, theirs)


@every_fuser
def test_half_precision_is_fused_in_float32(name):
    torch.manual_seed(0)
    fuser, sets = MAKERS[name]().eval(), make_sets(2, 3)
    fields = [field if field.dtype == torch.bool else field.float() for field in sets]
    exact = fuser(FaceSets(*fields))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = fuser(FaceSets(*fields))
    assert rough.isfinite().all()
    if name in WEIGHTED:
        assert rough.dtype == torch.float32
        assert F.cosine_similarity(rough, exact, dim=1).min() > 0.99


def test_a_number_per_face_learns_from_the_style_which_faces_are_good():
    torch.manual_seed(0)
    draw = SyntheticSets(0, dimension=16, styles=8)
    fuser = StyleWeighted(16, 8, hidden=16)
    optimiser = torch.optim.Adam(fuser.parameters(), lr=1e-2)
    for _ in range(60):
        sets, centres = draw.make(32, 6)
        optimiser.zero_grad()
        template_loss(fuser(sets), centres).backward()
        optimiser.step()
    sets, centres = draw.make(300, 16)
    fuser.eval()
    with torch.no_grad():
        learned, plain, by_norm = (
            float(template_loss(one(sets), centres))
            for one in (fuser, MeanFuser(16), NormWeighted(16))
        )
    assert learned < 0.8 * by_norm < 0.8 * plain


def test_pfe_templates_are_searched_by_ida_as_any_embedding():
    # PFE & IDA: fuse first, then DAO between templates.
    fuser, people = lively("pfe"), make_sets(20, 1)
    photos = reorder(people, [0, 0, 0])
    noise = 0.1 * make_sets(20, 3, seed=1).features
    probes = photos._replace(features=photos.features + noise, maps=make_sets(20, 3, seed=2).maps)

    def templates(sets: FaceSets) -> np.ndarray:
        return F.normalize(fuser(sets).detach(), dim=1).float().numpy()

    anchors = Anchors(templates(make_sets(50, 4, seed=3)), "templates")
    index = SearchIndex(templates(people), np.arange(20), anchors=anchors)
    found = [hits[0].identity for hits in index.search(templates(probes), 1)]
    assert np.mean(np.array(found) == np.arange(20)) >= 0.9


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        *((name, {"features": torch.zeros(2, 3, C + 1)}, r"\(B, N, 6\)") for name in WEIGHTED),
        ("recurrent", {"features": torch.zeros(2, 3, C + 1)}, r"\(B, N, 6\)"),
        ("quality", {"quality": None}, "reads quality"),
        ("style", {"styles": None}, "reads styles"),
        ("style", {"styles": torch.zeros(2, 3, K + 1, 2)}, r"\(2, 3, 3, 2\)"),
        *((name, {"maps": None}, "reads maps") for name in ("cfan", "pfe", "rsa")),
        *((name, {"maps": torch.zeros(2, 3, 8, 2, 2)}, "maps must be") for name in ("cfan", "rsa")),
        ("pfe", {"maps": torch.zeros(2, 3, D, 3, 3)}, "maps must be"),
        ("mean", {"mask": torch.zeros(2, 3, dtype=torch.bool)}, "at least one face"),
    ],
)
def test_sets_that_do_not_fit_are_refused(name, change, message):
    with pytest.raises(RecordError, match=message):
        lively(name)(make_sets(2, 3)._replace(**change))


def test_sizes_that_cannot_be_are_refused():
    with pytest.raises(ConfigError, match="1 or more, got 0"):
        MeanFuser(0)
    with pytest.raises(ConfigError, match="multiple of 8, got 12"):
        RSA(12, tiny_head)
    with pytest.raises(ConfigError, match="layout must be paper or large"):
        PFE(C, D, layout="small")
