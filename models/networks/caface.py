"""CAFace: cluster and aggregate (Kim, Liu, Jain, Liu, NeurIPS 2022), to train and to export.

    faces --encode--> tokens, unit embeddings --cluster--> sums --read--> fused embedding

`cluster` is the part whose result depends on company (the faces of a chunk look at each other);
`read` is the rest. Between them stand three sums, which add up over chunks (equations 7 and 8), so
a set is fused in one go or in pieces. models/caface.py runs the same weights without torch.
"""

from __future__ import annotations

from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn

from ... import ConfigError, RecordError
from ..caface import EPSILON
from ..caface_head import HEADS, Division, HeadSize, Rounding
from ..fusion import CHUNK
from .caface_layers import AggregationNetwork, Assignment, ClusterNetwork
from .caface_style import NormEmbedding, StyleInputMaker
from .sets import FaceSets, check_sets, clear_field, clear_padding

Keys = Literal["style", "style+norm", "feature+style+norm"]


class Encoded(NamedTuple):
    """Faces as the cluster network takes them.

    tokens: s (B, N, D). values: V (B, N, C) float64, unit length. mask: (B, N) bool. Padding is 0.
    """

    tokens: Tensor
    values: Tensor
    mask: Tensor

    def take(self, faces: slice) -> Encoded:
        """The faces that a slice of the second axis picks, of every set."""
        return Encoded(*(field[:, faces] for field in self))


class Sums(NamedTuple):
    """What is kept of the faces seen so far: numerators and weights of equation 7, all float64.

    values: sum of A.V (B, M, C). styles: sum of A.S (B, M, D). mass: sum of A (B, M), which is the
    number of faces in all. Adding is commutative and associative, zeros are its identity.
    """

    values: Tensor
    styles: Tensor
    mass: Tensor

    def merge(self, other: Sums) -> Sums:
        """The sums of all faces of both."""
        return Sums(*(mine + theirs for mine, theirs in zip(self, other, strict=True)))


class CAFace(nn.Module):
    """Style input maker, cluster network and aggregation network; a SetFuser.

    Holds no state of a track: sums are handed in and out. Sums and divisions are float64 in every
    dtype of the network and under autocast; half precision would overflow at 65,504 faces. So the
    device must have float64, as CPUs and CUDA do.
    """

    def __init__(
        self,
        size: HeadSize,
        *,
        keys: Keys = "style+norm",
        division: Division = "exact",
        rounding: Rounding = "floor",
        style_mix: float = 0.0,
        drop_path: float = 0.1,
    ) -> None:
        """An untrained network with the paper's initialisation.

        size: C, K, M and the widths G and N of the two codes. keys: what a token is made of
        (table 1): the style alone, D = G; style and norm, D = G + N; or the unit embedding as
        well, D = C + G + N. Only "style+norm" has a live counterpart. division: "exact", eq. 3 with
        gradients through the denominator, or "clip1", the authors' release: by max(1, mass), whose
        gradient is cut, with which a centre of less than one face shrinks. rounding: see
        NormEmbedding. style_mix: see StyleInputMaker. drop_path: see ClusterNetwork.

        Raises ConfigError for another option, or when D is not a multiple of the 8 heads.
        """
        for name, got, kinds in (
            ("keys", keys, get_args(Keys)),
            ("division", division, get_args(Division)),
            ("rounding", rounding, get_args(Rounding)),
        ):
            if got not in kinds:
                raise ConfigError(f"{name} must be one of {', '.join(kinds)}, got {got!r}")
        if not 0 <= drop_path < 1:
            raise ConfigError(f"drop_path must be in [0, 1), got {drop_path}: the paper has 0.1")
        super().__init__()
        width = size.style_code if keys == "style" else size.token
        if keys == "feature+style+norm":
            width += size.dimension
        if width % HEADS or size.centres < 1:
            raise ConfigError(
                f"CAFace needs at least one centre and tokens of a multiple of {HEADS} numbers, "
                f"got {size.centres} centres and tokens of {width}"
            )
        self.size = size
        self.keys = keys
        self.division = division
        self.sim = StyleInputMaker(size.styles, size.style_code, mix=style_mix)
        self.norm = None if keys == "style" else NormEmbedding(size.norm_code, rounding=rounding)
        self.cn = ClusterNetwork(size.centres, width, drop_path=drop_path)
        self.agn = AggregationNetwork(size.centres, width, size.dimension)

    def forward(self, sets: FaceSets) -> Tensor:
        """The fused embeddings (B, C), not normalised: every set is one chunk.

        `sets` needs styles. Raises RecordError when it does not fit the network.
        """
        return self.read(self.cluster(self.encode(sets)))

    def fuse_in_chunks(self, sets: FaceSets, *, chunk: int = CHUNK) -> Tensor:
        """The fused embeddings (B, C): `chunk` places of a set at a time, in order, as live.

        Padding belongs at the end of a set, or its chunks hold fewer faces. Raises RecordError as
        `encode` does, ConfigError for a chunk below 1.
        """
        if chunk < 1:
            raise ConfigError(f"a chunk must be of 1 face or more, got {chunk}")
        encoded = self.encode(sets)
        sums = self.empty(len(encoded.mask))
        for start in range(0, encoded.mask.shape[1], chunk):
            sums = sums.merge(self.cluster(encoded.take(slice(start, start + chunk))))
        return self.read(sums)

    def encode(self, sets: FaceSets) -> Encoded:
        """SIM for every face. In training the batch statistics are those of all faces of `sets`.

        Raises RecordError when `sets` does not fit C and K, has no styles, or has a face with
        numbers that are not finite; in training also when there are fewer than two faces.
        """
        check_sets(sets, dimension=self.size.dimension, styles=self.size.styles, needs=("styles",))
        sets = clear_padding(sets)
        assert sets.styles is not None  # check_sets saw to it
        if not bool(sets.features.isfinite().all() & sets.styles.isfinite().all()):
            raise RecordError(
                "features and styles of faces must be finite, got some that are not: "
                "leave out faces that were not embedded"
            )
        norms = torch.linalg.vector_norm(sets.features, dim=2, dtype=torch.float64)
        values = self.normalise(sets.features)
        faces = sets.mask.flatten().nonzero().squeeze(1)  # padding must not enter the statistics
        if self.training and len(faces) < 2:
            raise RecordError(f"training needs two faces for its statistics, got {len(faces)}")
        tokens = self.make_tokens(
            values.flatten(0, 1)[faces], norms.flatten()[faces], sets.styles.flatten(0, 1)[faces]
        )
        rows = tokens.new_zeros(sets.mask.numel(), tokens.shape[1]).index_copy(0, faces, tokens)
        return Encoded(rows.reshape(*sets.mask.shape, rows.shape[1]), values, sets.mask)

    def cluster(self, encoded: Encoded) -> Sums:
        """CN: the sums of one chunk of every set. A set without a face here adds nothing."""
        return self.add_up(encoded.values, self.cn(encoded.tokens, encoded.mask))

    def empty(self, sets: int) -> Sums:
        """The sums of no face at all, for B = `sets`."""
        centres, width = self.cn.centres.shape
        zeros = self.cn.centres.new_zeros((), dtype=torch.float64)
        return Sums(
            zeros.expand(sets, centres, self.size.dimension),
            zeros.expand(sets, centres, width),
            zeros.expand(sets, centres),
        )

    def read(self, sums: Sums) -> Tensor:
        """AGN: the fused embeddings (B, C), equation 6, in the network's dtype, not normalised.

        Raises RecordError when a set has no face, or one with numbers that are not finite.
        """
        if not bool((sums.mass.sum(dim=1) > 0).all()):
            raise RecordError(
                "to be read, every set must have a face and finite numbers only, got one without"
            )
        return self.aggregate(sums)[0]

    def sample_weights(self, sets: FaceSets) -> Tensor:
        """The faces' shares (B, N) float64 of the fused embeddings, supplement F; sum 1, padding 0.

        w_i = sum_j A_ji mean_c(P_jc) / divisor_j, scaled. The supplement prints it without the
        divisor, but the fused embedding is made with it.
        """
        encoded = self.encode(sets)
        assigned = self.cn(encoded.tokens, encoded.mask)
        _, gain = self.aggregate(self.add_up(encoded.values, assigned))
        return torch.einsum("bm,bmn->bn", gain, assigned.weights)

    def recalibrate_norms(self, norms: Tensor) -> None:
        """Fit the norm embedding to the norms (R,) of another backbone or camera.

        Raises RecordError unless there are two finite ones, ConfigError when there is no embedding.
        """
        if self.norm is None:
            raise ConfigError('CAFace with keys="style" reads no norms: nothing to recalibrate')
        self.norm.recalibrate(norms)

    def make_tokens(self, values: Tensor, norms: Tensor, styles: Tensor) -> Tensor:
        """SIM: V (R, C), norms (R,) and styles (R, K, 2) of R faces to tokens (R, D)."""
        parts = [self.sim(styles.to(self.sim.mix.dtype))]
        if self.norm is not None:
            parts.append(self.norm(norms))
        if self.keys == "feature+style+norm":
            parts.insert(0, values.to(parts[0].dtype))
        return torch.cat(parts, dim=1)

    def normalise(self, features: Tensor) -> Tensor:
        """V: features (B, N, C) at unit length, float64; zeros stay zeros."""
        wide = features.double()
        lengths = torch.linalg.vector_norm(wide, dim=2, keepdim=True)
        # The authors' unit length has a small floor, which their checkpoints were trained with.
        floor = EPSILON if self.division == "clip1" else 0.0
        return wide / torch.where(lengths > 0, lengths + floor, 1.0)

    def add_up(self, values: Tensor, assigned: Assignment) -> Sums:
        """Equation 7's sums over a chunk of values (B, N, C)."""
        weights, keys = assigned
        return Sums(weights @ values, weights @ keys.double(), weights.sum(dim=2))

    def aggregate(self, sums: Sums) -> tuple[Tensor, Tensor]:
        """The fused embeddings (B, C) and the gain (B, M): a face's share is its A times it."""
        divisor = sums.mass if self.division == "exact" else sums.mass.clamp(min=1.0).detach()
        dtype = self.cn.centres.dtype
        shares = self.agn(self.cn.centres, (sums.styles / divisor[..., None]).to(dtype))
        fused = (shares * (sums.values / divisor[..., None])).sum(dim=1)
        gain = shares.mean(dim=2) / divisor
        return fused.to(dtype), gain / (gain * sums.mass).sum(dim=1, keepdim=True)


class ChunkPart(nn.Module):
    """The part of a CAFace that runs once per chunk, to export: plain tensors in and out."""

    def __init__(self, network: CAFace) -> None:
        """network: in evaluation mode; its weights are shared."""
        super().__init__()
        self.network = network

    def forward(
        self, features: Tensor, norms: Tensor, styles: Tensor, mask: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """B chunks of at most n faces, each with one or more.

        features: (B, n, C) raw. norms: (B, n), theirs. styles: (B, n, K, 2). mask: (B, n) bool.

        Returns the three `Sums` (B, M, C), (B, M, D), (B, M) and A (B, M, n), all float64.
        """
        values = self.network.normalise(clear_field(features, mask))
        norms, styles = clear_field(norms, mask), clear_field(styles, mask)
        tokens = self.network.make_tokens(
            values.flatten(0, 1), norms.flatten(), styles.flatten(0, 1)
        )
        assigned = self.network.cn(tokens.reshape(*mask.shape, -1), mask)
        return *self.network.add_up(values, assigned), assigned.weights


class ReadPart(nn.Module):
    """The part of a CAFace that runs once per reading, to export: plain tensors in and out."""

    def __init__(self, network: CAFace) -> None:
        """network: in evaluation mode; its weights are shared."""
        super().__init__()
        self.network = network

    def forward(self, values: Tensor, styles: Tensor, mass: Tensor) -> tuple[Tensor, Tensor]:
        """The three `Sums` of B sets, each with a face, to the fused embeddings (B, C), not
        normalised, and the gain (B, M) float64: a face whose column of A is a has the share a.gain.
        """
        return self.network.aggregate(Sums(values, styles, mass))
