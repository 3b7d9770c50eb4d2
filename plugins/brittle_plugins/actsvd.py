"""ActSVD."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from brittle_eval import Attribution, BrittleError, Directions

if TYPE_CHECKING:
    from torch import Tensor

    from brittle_eval import Seen, Weight

REAL = 1e-12
"""A direction is real if its energy exceeds this share of the strongest one's: float32 activations carry no more."""


@dataclass
class Gram:
    """What ActSVD keeps of one input, or of one weight's outputs."""

    total: Tensor
    """Σ z zᵀ over response tokens, float64: energies of one weight span up to 1e12, of which float32 sums would keep 1e7."""
    of_inputs: bool
    """Whether z is what enters the weight, or what leaves it."""
    tokens: int = 0


@dataclass(frozen=True)
class ActSVD(Attribution):
    """`U, S² of SVD(W X) = U S Vᵀ`: the directions of a weight's outputs with their energies, X (in, response tokens).

    No activation is kept: U and S² are the eigenvectors and eigenvalues of the outputs' Gram matrix, (W X)(W X)ᵀ = W (X Xᵀ) Wᵀ,
    which is streamed in float64. Weights that read one input share its X Xᵀ. One that reads its input alone has that too, or,
    with fewer outputs than inputs, the Gram matrix of its outputs as the model computed them, without the bias. With
    more outputs than inputs the eigenvectors are found among the weight's own columns, so that nothing is (out, out).
    What no token showed is `unseen`: in the first block q, k and v see no more inputs than there are different tokens.
    Energies are sums over tokens: more data scales them.

    ActSVD of Wei et al. 2024 (arXiv 2402.05162).
    """

    gives = "directions"
    needs = frozenset({"inputs", "outputs"})
    shares = True

    def start(self, weight: Weight, *beside: Weight) -> Gram:
        out, width = weight.value.shape
        of_inputs = bool(beside) or out >= width
        size = width if of_inputs else out
        return Gram(torch.zeros(size, size, dtype=torch.float64, device=weight.value.device), of_inputs)

    def update(self, state: Gram, seen: Seen) -> Gram:
        rows = seen.inputs if state.of_inputs else seen.outputs
        assert rows is not None
        rows = rows.double()
        state.total.addmm_(rows.T, rows)
        state.tokens += len(rows)
        return state

    def finish(self, state: Gram, weight: Weight) -> Directions:
        if not bool(state.total.isfinite().all()):
            raise BrittleError(f"what enters or leaves {weight.name} is not finite: use dtype=float32 or bfloat16")
        out, width = weight.value.shape
        within, factor = None, weight.value.double()
        if out > width:
            within, factor = torch.linalg.qr(factor)
        gram = factor @ state.total @ factor.T if state.of_inputs else state.total
        energies, vectors = (found.flip(-1) for found in torch.linalg.eigh(gram))
        real = min(int((energies > REAL * energies[0]).sum()), state.tokens)
        unseen = _by_strength(vectors[:, real:], factor)
        vectors = torch.cat([vectors[:, :real], unseen], dim=1)
        vectors = vectors if within is None else within @ vectors
        return Directions(weight.name, (out, width), vectors[:, :real], energies[:real], vectors[:, real:], state.tokens)


def _by_strength(vectors: Tensor, factor: Tensor) -> Tensor:
    """The same span, by falling energy of what the weight gives along it when all inputs are alike."""
    given = vectors.T @ factor
    turned: Tensor = vectors @ torch.linalg.eigh(given @ given.T).eigenvectors.flip(-1)
    return turned
