"""Configuration of ELECTRA."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, ClassVar

from t2t.errors import UserError
from t2t.limits import FewOrZero
from t2t.models.checks import check_equal, check_even_buckets
from t2t.models.config import StackConfig
from t2t.models.encoder import EncoderConfig
from t2t.models.transformer_config import TransformerConfig
from t2t.nn.model import Capability, Kind, Part
from t2t.types import Params

if TYPE_CHECKING:
    from t2t.models.electra.network import Electra


DISCRIMINATOR: dict[str, Any] = {
    "head": "tags",
    "labels": ("original", "replaced"),
    "pooler": True,
    "reference_label": True,
}
"""Fields of an EncoderConfig with the discriminator's head."""
OBJECTIVE_FIELDS = ("discriminator_weight", "masked_share")
"""Model fields of older versions that are now fields of `ReplacedTokenDetection`."""


@dataclass(frozen=True, kw_only=True)
class ElectraConfig(TransformerConfig):
    """A discriminator that detects replaced tokens, and the masked language model that generates the replacements.

    Args:
        encoder: the stack of the discriminator.
        generator: the stack of the generator, usually narrower. Both share the embeddings, of width `embedding_size` or the discriminator's width.
        types: number of token types; 0 means none.
    """

    kind: ClassVar[Kind] = "encoder"
    encoder: StackConfig
    generator: StackConfig
    types: FewOrZero = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        for side in ("encoder", "generator"):
            check_even_buckets(side, getattr(self, side))
        sides = ("encoder", self.encoder), ("generator", self.generator)
        check_equal(
            *sides, ("positions", "learned_positions", "max_length", "position_offset"), "they share embeddings"
        )
        if not self.tied:
            raise UserError(
                "model.tied is False; the generator of ELECTRA computes its logits with the shared embeddings. Nearest: True."
            )

    @classmethod
    def upgraded(cls, fields: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the fields without those that now belong to the objective."""
        return {name: value for name, value in fields.items() if name not in OBJECTIVE_FIELDS}

    @classmethod
    def old_objective(cls, model: Mapping[str, Any], loss: Any) -> Any:
        """Return the JSON of a ReplacedTokenDetection, made from `loss` and the model's own weights."""
        kept = dict(loss) if isinstance(loss, Mapping) else {}
        kept.pop("block", None)  # had no effect
        weights = {name: model[name] for name in OBJECTIVE_FIELDS if name in model}
        return {**kept, **weights, "class": "t2t.models.electra.objective.ReplacedTokenDetection"}

    @property
    def capabilities(self) -> frozenset[Capability]:
        """What the model can do. It cannot "predict", because its logits depend on the generator only."""
        return super().capabilities - {"predict"} | {"detect"}

    @property
    def stacks(self) -> tuple[StackConfig, ...]:
        """The discriminator's stack and the generator's."""
        return (self.encoder, self.generator)

    @property
    def embedding_width(self) -> int:
        """Width of the embeddings."""
        return self.encoder.d_model if self.embedding_size is None else self.embedding_size

    def discriminator(self) -> EncoderConfig:
        """Return the discriminator as an encoder with a masked-LM head. Both have the parameters `embeddings/**` and `encoder/**`."""
        return self._encoder(self.encoder, self.embedding_size)

    def generator_alone(self) -> EncoderConfig:
        """Return the generator as an encoder."""
        return self._encoder(self.generator, self.embedding_width)

    def parts(self) -> Mapping[str, Part]:
        """Return the discriminator, which tags each token as original or replaced, and the generator, which fills masks."""
        common = {field.name: getattr(self, field.name) for field in fields(TransformerConfig)}
        common |= {"types": self.types, "embedding_norm": True, "unroll": 1}
        detector = {**DISCRIMINATOR, "pooler_activation": self.encoder.activation}
        discriminator = EncoderConfig(**{**common, **detector, "encoder": self.encoder})
        width = None if self.generator.d_model == self.embedding_width else self.embedding_width
        filler = {"head_transform": True, "head_bias": True, "embedding_size": width, "encoder": self.generator}
        generator = EncoderConfig(**{**common, **filler})
        return {
            "discriminator": Part(config=discriminator, params=_discriminator, embeds=True),
            "generator": Part(config=generator, params=_generator),
        }

    def build(self) -> Electra:
        """Return the model."""
        from t2t.models.electra.network import Electra

        return Electra(self)

    def _encoder(self, stack: StackConfig, embedding_size: int | None) -> EncoderConfig:
        common = {field.name: getattr(self, field.name) for field in fields(TransformerConfig)}
        head = {"embedding_norm": True, "head_transform": True, "head_bias": True}
        return EncoderConfig(
            **{**common, **head, "encoder": stack, "types": self.types, "embedding_size": embedding_size}
        )


def _discriminator(params: Params) -> Params:
    """Return the parameters of the discriminator as an encoder."""
    detector = params["detector"]
    answer = {"pooler": detector["dense"], "output": detector["out"]}
    return {"embeddings": params["embeddings"], "encoder": params["encoder"], "answer": answer}


def _generator(params: Params) -> Params:
    """Return the parameters of the generator as an encoder. It has its own projection of the embeddings that both halves share."""
    own = dict(params["generator"])
    embeddings = {name: value for name, value in params["embeddings"].items() if name != "widen"}
    if "widen" in own:
        embeddings["widen"] = own.pop("widen")
    return {"embeddings": embeddings, "encoder": own.pop("stack"), **own}
