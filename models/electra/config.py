"""What an ELECTRA is made of, as data."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Annotated, ClassVar

from t2t.errors import UserError
from t2t.limits import FewOrZero, Range, Weight
from t2t.models.config import StackConfig, TransformerConfig, both_ways
from t2t.models.encoder import EncoderConfig
from t2t.nn.model import Kind

if TYPE_CHECKING:
    from t2t.models.electra.network import Electra


@dataclass(frozen=True, kw_only=True)
class ElectraConfig(TransformerConfig):
    """A discriminator, which tells replaced tokens from real ones, and the masked language model that makes the replacements.

    Args:
        encoder: the discriminator's stack.
        generator: the generator's, usually narrower. Both have the embeddings in common, of width `embedding_size` or the discriminator's own.
        types: number of token types; 0 for none.
        discriminator_weight: of the discriminator's mean loss beside the generator's (lambda in section 2 of the paper).
        masked_share: share of the tokens that the task has predicted. It makes of that weight on means one on sums, which alone add up over parts of a
            batch; where a task predicts more or fewer, the weight is so much larger or smaller.
    """

    kind: ClassVar[Kind] = "encoder"
    encoder: StackConfig
    generator: StackConfig
    types: FewOrZero = 2
    discriminator_weight: Weight = 50.0
    masked_share: Annotated[float, Range(1e-6, 1.0, typical=0.15)] = 0.15

    def __post_init__(self) -> None:
        super().__post_init__()
        for side in ("encoder", "generator"):
            both_ways(side, getattr(self, side))
        for field in ("positions", "max_length", "position_offset"):
            ours, theirs = getattr(self.encoder, field), getattr(self.generator, field)
            if ours != theirs:
                raise UserError(
                    f"model.generator.{field} is {theirs!r} and model.encoder.{field} is {ours!r}; they share embeddings. Nearest: {ours}."
                )
        if not self.tied:
            raise UserError(
                "model.tied is False; an ELECTRA's generator has its logits from the shared embeddings. Nearest: True."
            )

    @property
    def stacks(self) -> tuple[StackConfig, ...]:
        """The discriminator's stack and the generator's."""
        return (self.encoder, self.generator)

    @property
    def embedding_width(self) -> int:
        """Width of the embeddings."""
        return self.encoder.embed if self.embedding_size is None else self.embedding_size

    def discriminator(self) -> EncoderConfig:
        """Return the discriminator alone, as an encoder with a masked-LM head: `embeddings/**` and `encoder/**` are parameters of both."""
        return self._encoder(self.encoder, self.embedding_size)

    def generator_alone(self) -> EncoderConfig:
        """Return the generator's shape as an encoder."""
        return self._encoder(self.generator, self.embedding_width)

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
