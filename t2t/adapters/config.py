"""Configuration of the adapter of a run."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Annotated, Literal

from t2t.adapters.attach import attach
from t2t.errors import UserError, nearest
from t2t.limits import Configuration, Length, Range, Rate, Width
from t2t.nn.model import Model

Kind = Literal["lora", "dora", "ia3", "prompt"]
Alpha = Annotated[float, Range(1e-6, 1e6, typical=16.0)]
_LOW_RANK = ("rank", "alpha", "rank_stabilized", "dropout")
_LINEAR = ("targets", "exclude")
_USED: dict[Kind, tuple[str, ...]] = {
    "lora": (*_LOW_RANK, *_LINEAR),
    "dora": (*_LOW_RANK, *_LINEAR),
    "ia3": ("scaled_inputs", *_LINEAR),
    "prompt": ("virtual_tokens",),
}
"""Fields that a kind uses besides `kind` and `trained`."""
_TARGETS: dict[Kind, tuple[str, ...]] = {
    "lora": ("**/{attention,cross_attention}/{query,value}",),
    "dora": ("**/{attention,cross_attention}/{query,value}",),
    "ia3": ("**/{attention,cross_attention}/{key,value}", "**/mlp/down"),
}


@dataclass(frozen=True, kw_only=True)
class Adapter(Configuration):
    """Trained parameters beside the frozen parameters of a model. There is no adapter unless `rank` is set, or `kind` is another than "lora".

    Args:
        kind: "lora": low-rank matrices beside kernels (Hu et al. 2021); "dora": also the norms of the sums' columns (Liu et al. 2024); "ia3": factors on
            activations (Liu et al. 2022); "prompt": vectors before the tokens of the encoder's or the decoder's input (Lester et al. 2021).
        rank: lora, dora: rank of the matrices. None means no adapter.
        alpha: lora, dora: the low-rank product is multiplied by alpha / rank. None means the rank.
        rank_stabilized: lora, dora: multiply by alpha / sqrt(rank) instead (rsLoRA, Kalajdzievski 2023).
        dropout: lora, dora: dropout rate of the input of the low-rank matrices, in stacks of layers.
        targets: glob patterns of what gets an adapter ("decoder/layers/mlp/*"), as in `trainable.include`: linear layers and, for "lora", kernels of experts
            and routers ("decoder/layers/moe/*"). () means those of the paper: queries and values; for "ia3" keys, values and the last kernel of feed-forward
            layers.
        exclude: glob patterns of what gets none, even if they match `targets`.
        scaled_inputs: ia3: glob patterns of the targets whose inputs are scaled. The outputs of the others are.
        virtual_tokens: prompt: number of vectors.
        trained: glob patterns of parameters of the model that are trained as well ("answer/**"), for example a new head.
    """

    kind: Kind = "lora"
    rank: Width | None = None
    alpha: Alpha | None = None
    rank_stabilized: bool = False
    dropout: Rate = 0.0
    targets: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    scaled_inputs: tuple[str, ...] = ("**/mlp/down",)
    virtual_tokens: Length | None = None
    trained: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.kind not in _USED:
            raise UserError(f"unknown adapter.kind {self.kind!r} (--adapter.kind).{nearest(str(self.kind), _USED)}")
        changed = [field.name for field in fields(self) if getattr(self, field.name) != field.default]
        used = ("kind", "trained", *_USED[self.kind])
        if wrong := [name for name in changed if name not in used]:
            kind = next(kind for kind, names in _USED.items() if wrong[0] in names)
            raise UserError(
                f"adapter.{wrong[0]} is {getattr(self, wrong[0])!r}, but adapter.kind is {self.kind!r}, which does not use it (--adapter.kind). Nearest: {kind}."
            )
        needed, typical = ("virtual_tokens", 20) if self.kind == "prompt" else ("rank", 16)
        if changed and self.kind != "ia3" and getattr(self, needed) is None:
            raise UserError(
                f"adapter.{changed[0]} is {getattr(self, changed[0])!r}, but there is no adapter: adapter.{needed} is None"
                f" (--adapter.{needed.replace('_', '-')}). Nearest: {typical}."
            )

    @property
    def enabled(self) -> bool:
        """Whether there is an adapter."""
        return self.rank is not None or self.kind in ("ia3", "prompt")

    @property
    def patterns(self) -> tuple[str, ...]:
        """The patterns of the targets: `targets`, or those of the paper."""
        return self.targets or _TARGETS[self.kind]

    @property
    def scale(self) -> float:
        """Factor on the low-rank product."""
        assert self.rank is not None, "there are low-rank matrices"
        alpha = float(self.rank) if self.alpha is None else self.alpha
        return alpha / (self.rank**0.5 if self.rank_stabilized else self.rank)

    def applied(self, model: Model) -> Model:
        """Return the model with this adapter; the model itself if there is none.

        Raises UserError if a pattern matches nothing, if the rank is too large, or if the model cannot have adapters.
        """
        return model.adapted(lambda network: attach(network, self)) if self.enabled else model
