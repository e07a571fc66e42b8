"""CAFace: cluster and aggregate (Kim, Liu, Jain, Liu, NeurIPS 2022), inference in plain NumPy.

A face gives a value v = f / ||f|| and a token s = [style code, norm code] (SIM). The cluster
network assigns the faces of a chunk to M learned centres, A = softmax over centres (eq. 2); sums of
A.V, A.S and A are all a track keeps (eq. 7). The aggregation network turns the centres' mean
styles S' into weights P, and the template is sum_M P * F' (eq. 6).

A chunk is CHUNK faces in the track's own order, since A depends on which faces look at each other.
All arithmetic is float64: the networks are small, and a result must not depend on the machine's
blocking of sums.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.special import erf

from .caface_head import DEPTH, HEADS, CAFaceHead
from .fusion import (
    CHUNK,
    Doubles,
    Floats,
    FusionState,
    Members,
    Reading,
    check_members,
    join_members,
    no_members,
    normalise_rows,
    unit_template,
    usable_members,
)

EPSILON = 1e-5  # batch and layer normalisation, and the authors' unit length
NORM_CLIP = 3  # k of the supplement: standard deviations
NORM_STEPS = 10  # q: bins per standard deviation
# The smallest log A. Trained heads send nearly everything to one centre and live centres hold sums
# of 1e-13 or less; no weight may underflow to 0, or its centre would have no mean to read.
LOG_FLOOR = -600.0


class Assigned(NamedTuple):
    """One chunk in its own company: weights A (M, n), columns sum to 1; keys S (n, D)."""

    weights: Doubles
    keys: Doubles


class CAFace:
    """The aggregator "caface". Holds weights only; safe to share between tracks and threads."""

    name = "caface"

    def __init__(self, head: CAFaceHead, *, chunk: int = CHUNK) -> None:
        """head: see caface_head; C, K and M are its own.

        chunk: faces of a chunk. Live it is CHUNK, which stored states rely on; others are for
        measuring what it does.
        """
        self.head = head
        self._chunk = chunk
        self.dimension = head.size.dimension
        self._norm_table = norm_table(head.size.norm_code)
        centres = self._layer_norm("cn.assign.norm_centres", head.arrays["cn.centres"])
        # The query is the ORIGINAL centres, so it is the same for every chunk.
        self._query = self._linear("cn.assign.query", centres) / np.sqrt(head.size.token)

    def empty(self) -> FusionState:
        """No observation yet."""
        size = self.head.size
        return FusionState(
            np.zeros((size.centres, size.dimension)),
            np.zeros((size.centres, size.token)),
            np.zeros(size.centres),
            0,
            no_members(size.dimension, size.styles),
        )

    def update(self, state: FusionState, members: Members) -> FusionState:
        """Closes every chunk that fills up; the rest stays pending."""
        check_members(members, self.dimension, self.head.size.styles)
        members = members.take(usable_members(members))
        pending = join_members(state.pending, members)
        while len(pending.norms) >= self._chunk:
            state = self._add(state, pending.take(slice(self._chunk)))
            pending = pending.take(slice(self._chunk, None))
        # A copy, so that a view does not keep the caller's arrays alive.
        return state._replace(pending=Members(*(column.copy() for column in pending)))

    def merge(self, first: FusionState, second: FusionState) -> FusionState:
        """Sum of the sums after each open chunk was closed as it stands."""
        if not first.observations:
            return second
        if not second.observations:
            return first
        first, second = self._close(first), self._close(second)
        return first._replace(
            values=first.values + second.values,
            styles=first.styles + second.styles,
            mass=first.mass + second.mass,
            summed=first.summed + second.summed,
        )

    def read(self, state: FusionState) -> Floats:
        """The template (C,) float32, equation 6, open chunk included."""
        return self.inspect(state).embedding

    def inspect(self, state: FusionState) -> Reading:
        """The template and the paper's sample weights (supplement F), exact for this state.

        w_i = sum_j A_ji mean_c(P_jc) / divisor_j, scaled so that they sum to 1.
        """
        size = self.head.size
        if not state.observations:
            unit_template(np.zeros(size.dimension))  # raises, with its message
        closed, pending = state, np.zeros((0, size.centres))
        if len(state.pending.norms):
            chunk = self.assign(state.pending)
            closed, pending = self._sum(state, state.pending, chunk), chunk.weights.T
        divisor = self._divisor(closed.mass)[:, None]
        share = self.aggregate(closed.styles / divisor)  # (M, C)
        fused = (share * (closed.values / divisor)).sum(axis=0)
        gain = share.mean(axis=1) / divisor[:, 0]
        return Reading(unit_template(fused), gain / (gain @ closed.mass), pending)

    def weigh(self, members: Members) -> Doubles:
        """Rows (N, M): the columns of A for observations that make up one chunk."""
        if not len(members.norms):
            return np.zeros((0, self.head.size.centres))
        return self.assign(members).weights.T

    def tokens(self, members: Members) -> Doubles:
        """SIM: s = [style code, norm code], (N, D) (eq. 4 and supplement B)."""
        arrays = self.head.arrays
        mixed = (members.styles.astype(np.float64) * arrays["sim.mix"]).sum(axis=2)  # (N, K)
        code = self._linear("sim.linear", np.where(mixed > 0, mixed, arrays["sim.prelu"] * mixed))
        spread = np.sqrt(arrays["sim.bn.running_var"] + EPSILON)
        code = (code - arrays["sim.bn.running_mean"]) / spread
        code = code * arrays["sim.bn.weight"] + arrays["sim.bn.bias"]  # (N, G)
        norms = members.norms.astype(np.float64) - arrays["norm.running_mean"]
        norms = norms / np.sqrt(arrays["norm.running_var"] + EPSILON)
        steps = np.clip(norms, -NORM_CLIP, NORM_CLIP) * NORM_STEPS
        whole = np.floor(steps) if self.head.rounding == "floor" else np.trunc(steps)
        bins = whole.astype(np.int64) + NORM_CLIP * NORM_STEPS
        return np.concatenate([code, arrays["norm.scale"] * self._norm_table[bins]], axis=1)

    def assign(self, members: Members) -> Assigned:
        """CN: which share of each of n >= 1 faces every centre takes (eq. 2)."""
        tokens = self.tokens(members)
        count = len(tokens)
        together = np.concatenate([tokens, self.head.arrays["cn.centres"]])  # (n + M, D)
        for block in range(DEPTH):
            together = self._transform(f"cn.blocks.{block}", together)
        # Only the faces' tokens go on: centres that moved would change their meaning.
        keys = self._layer_norm("cn.assign.norm_keys", together[:count])
        logits = self._query @ self._linear("cn.assign.key", keys).T  # (M, n)
        logits -= logits.max(axis=0)
        logits -= np.log(np.exp(logits).sum(axis=0))
        return Assigned(np.exp(np.maximum(logits, LOG_FLOOR)), keys)

    def aggregate(self, styles: Doubles) -> Doubles:
        """AGN: the centres' mean styles S' (M, D) to P (M, C), which sums to 1 over M (eq. 6)."""
        mixed = np.concatenate([self.head.arrays["cn.centres"], styles], axis=1)  # (M, 2D)
        for mixer in (f"agn.mixers.{i}" for i in range(DEPTH)):
            # One normalisation serves both steps, and the gate is on the first skip only.
            normed = self._layer_norm(f"{mixer}.norm", mixed)
            across = self._mlp(f"{mixer}.tokens", normed.T).T
            mixed = mixed * self.head.arrays[f"{mixer}.gate"] + across
            mixed = mixed + self._mlp(f"{mixer}.channels", self._layer_norm(f"{mixer}.norm", mixed))
        logits = self._mlp("agn.head", mixed)  # (M, C)
        return _softmax(logits, axis=0)

    def _add(self, state: FusionState, members: Members) -> FusionState:
        return self._sum(state, members, self.assign(members))

    def _sum(self, state: FusionState, members: Members, chunk: Assigned) -> FusionState:
        # The authors' unit length has a small floor, which their checkpoints were trained with.
        floor = EPSILON if self.head.division == "clip1" else 0.0
        return FusionState(
            state.values + chunk.weights @ normalise_rows(members.embeddings, floor),
            state.styles + chunk.weights @ chunk.keys,
            state.mass + chunk.weights.sum(axis=1),
            state.summed + len(members.norms),
            no_members(self.dimension, self.head.size.styles),
        )

    def _close(self, state: FusionState) -> FusionState:
        return self._add(state, state.pending) if len(state.pending.norms) else state

    def _divisor(self, mass: Doubles) -> Doubles:
        # exact: eq. 3, so that F' is a mean of the faces however little a centre takes of them.
        # clip1: the authors' code, in which a centre with less than one face shrinks.
        return mass if self.head.division == "exact" else np.maximum(mass, 1.0)

    def _transform(self, block: str, tokens: Doubles) -> Doubles:
        """One pre-norm transformer block on (T, D)."""
        count, width = tokens.shape
        fused = self._linear(f"{block}.qkv", self._layer_norm(f"{block}.norm1", tokens))
        queries, keys, values = fused.reshape(count, 3, HEADS, width // HEADS).transpose(1, 2, 0, 3)
        logits = queries @ keys.transpose(0, 2, 1) / np.sqrt(width // HEADS)  # (heads, T, T)
        mixed = (_softmax(logits, axis=2) @ values).transpose(1, 0, 2).reshape(count, width)
        tokens = tokens + self._linear(f"{block}.proj", mixed)
        return tokens + self._mlp(block, self._layer_norm(f"{block}.norm2", tokens))

    def _mlp(self, name: str, rows: Doubles) -> Doubles:
        return self._linear(f"{name}.fc2", _gelu(self._linear(f"{name}.fc1", rows)))

    def _linear(self, name: str, rows: Doubles) -> Doubles:
        weight, bias = self.head.arrays[f"{name}.weight"], self.head.arrays[f"{name}.bias"]
        return np.asarray(rows @ weight.T + bias)

    def _layer_norm(self, name: str, rows: Doubles) -> Doubles:
        weight, bias = self.head.arrays[f"{name}.weight"], self.head.arrays[f"{name}.bias"]
        centred = rows - rows.mean(axis=-1, keepdims=True)
        variance = (centred * centred).mean(axis=-1, keepdims=True)
        return np.asarray(centred / np.sqrt(variance + EPSILON) * weight + bias)


def norm_table(width: int) -> Doubles:
    """The 61 codes (61, width) of a norm's bin: sin in even columns, cos in odd ones (suppl. B)."""
    bins = np.arange(2 * NORM_CLIP * NORM_STEPS + 1, dtype=np.float64)[:, None]
    columns = np.arange(width)
    angles = bins * 10000.0 ** (-(columns - columns % 2) / width)
    return np.where(columns % 2 == 0, np.sin(angles), np.cos(angles))


def _softmax(logits: Doubles, axis: int) -> Doubles:
    powers = np.exp(logits - logits.max(axis=axis, keepdims=True))
    return np.asarray(powers / powers.sum(axis=axis, keepdims=True))


def _gelu(rows: Doubles) -> Doubles:
    return np.asarray(0.5 * rows * (1.0 + erf(rows / np.sqrt(2.0))))
