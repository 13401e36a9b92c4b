"""What training, decoding and export know of a model: pure functions over a nested dict of parameters."""

from __future__ import annotations

import abc
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from functools import partial
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from t2t.limits import Configuration, Ids
from t2t.losses import LossSums
from t2t.nn.aux import Aux
from t2t.nn.capabilities import SIDES, Capability, Kind, Output, Side, capabilities_of
from t2t.types import Batch, Params

Cache = Any
"""A pytree that only the model that made it looks into."""

__all__ = [
    "EXECUTION",
    "PRECISION",
    "RATES",
    "START",
    "Cache",
    "Capability",
    "Kind",
    "Model",
    "ModelConfig",
    "Output",
    "ParamSpec",
]

EXECUTION = ("attention", "attention_block", "remat", "unroll")
"""Fields of model configurations that say how a model is computed, never what: a run may change them when it goes on, an export has no need of them."""
PRECISION = ("dtype", "quantization")
"""Fields that say in which numbers: the same function up to rounding. Parameters are float32 in any case."""
RATES = ("dropout", "attention_dropout", "mlp_dropout", "final_dropout")
"""Fields that matter while training alone: dropout, and where."""
START = ("embedding_std", "position_std", "init", "init_std", "init_residual")
"""Fields that matter until there are parameters."""


@dataclass(frozen=True)
class ParamSpec:
    """One parameter before it exists.

    axes:  a logical axis name, or None, for each dimension; "layers" first where stacked over depth.
    decay: whether weight decay applies (not to biases, norms and embeddings of positions).
    trainable: whether training changes it. A frozen parameter has no gradient and no optimizer state.
    """

    shape: tuple[int, ...]
    dtype: Any
    axes: tuple[str | None, ...]
    decay: bool
    trainable: bool = True


class Model(abc.ABC):
    """A model as pure functions; holds no arrays. Every method may be traced by `jax.jit`."""

    config: ModelConfig
    specs: dict[str, Any]
    """Nested dict of ParamSpec in the shape of the parameters."""

    @abc.abstractmethod
    def init(self, key: jax.Array) -> Params:
        """Make parameters from a random key. Under jit with out_shardings they are created sharded."""

    @abc.abstractmethod
    def hidden(self, params: Params, batch: Batch, *, dropout_key: jax.Array | None = None) -> Float[Array, "B L D"]:
        """Run the stacks; no dropout without a key."""

    def forward(
        self, params: Params, batch: Batch, *, dropout_key: jax.Array | None = None
    ) -> tuple[Float[Array, "B L D"], Aux]:
        """Return what `hidden` does, with the terms that layers report beside it: for the loss, see `t2t.nn.aux.with_aux`."""
        return self.hidden(params, batch, dropout_key=dropout_key), {}

    @abc.abstractmethod
    def head(self, params: Params, hidden: Float[Array, "*B D"]) -> Float[Array, "*B V"]:
        """Return float32 logits."""

    def logits(self, params: Params, batch: Batch, *, dropout_key: jax.Array | None = None) -> Float[Array, "B L V"]:
        """Return float32 logits aligned with `batch.targets`."""
        return self.head(params, self.hidden(params, batch, dropout_key=dropout_key))

    def scored(
        self, params: Params, batch: Batch, *, dropout_key: jax.Array | None = None
    ) -> tuple[Float[Array, "B L V"], Aux]:
        """Return `logits` with the terms that layers report beside them."""
        return self.logits(params, batch, dropout_key=dropout_key), {}

    def losses(self, params: Params, batch: Batch, loss: Any, *, dropout_key: jax.Array | None = None) -> LossSums:
        """Return `loss.loss(self, ...)`, the sums of an objective: the name of version 0.1.0, for code that users wrote."""
        return loss.loss(self, params, batch, dropout_key)

    @abc.abstractmethod
    def start(self, params: Params, batch: Batch, length: int) -> tuple[Float[Array, "B V"], Cache]:
        """Consume the encoder's tokens and the decoder's prompt.

        Prompts are padded at the end and may differ in length (segment 0 is padding). The cache has room for `length`
        decoder positions, prompt included. The logits are those after each row's last prompt token.
        """

    @abc.abstractmethod
    def step(self, params: Params, cache: Cache, ids: Int[Array, "B"]) -> tuple[Float[Array, "B V"], Cache]:
        """Consume one more token a row and return the logits after it."""

    def stepper(self, params: Params) -> Callable[[Cache, Int[Array, "B"]], tuple[Float[Array, "B V"], Cache]]:
        """Return `step` with its parameters, for a loop of steps: what all of them want of the parameters is made here, before the loop."""
        return partial(self.step, params)

    @abc.abstractmethod
    def grow(self, cache: Cache, length: int) -> Cache:
        """Return the cache, forked or not, with room for `length` decoder positions, prompt included: more than it had."""

    @abc.abstractmethod
    def select(self, cache: Cache, rows: Int[Array, "N"]) -> Cache:
        """Return the cache of the given rows, which may repeat."""

    def fork(self, cache: Cache, count: int) -> Cache:
        """Return the cache with each row `count` times, one after the other: hypotheses on one prompt."""
        rows = jax.tree.leaves(cache)[0].shape[0]
        return self.select(cache, jnp.repeat(jnp.arange(rows), count))

    def reorder(self, cache: Cache, rows: Int[Array, "N"]) -> Cache:
        """Return a forked cache with the given rows in place of its own: each one's place goes to a hypothesis on the same prompt."""
        return self.select(cache, rows)


@dataclass(frozen=True, kw_only=True)
class ModelConfig(Configuration, abc.ABC):
    """An architecture with its sizes. Families differ by choices, see `t2t.models`.

    Args:
        vocab_size: rows of the embedding: ids of the vocabulary, rounded up to what divides over a mesh.
    """

    kind: ClassVar[Kind]
    vocab_size: Ids

    @property
    def output(self) -> Output:
        """What the logits score; anything but words is for encoders."""
        return "tokens"

    @property
    def answer_places(self) -> int | None:
        """At how many of an example's first places its targets stand; None where any place may have one."""
        return None

    def num_outputs(self, length: int) -> int:
        """Return how many logits a place has in rows of `length` tokens."""
        return self.vocab_size

    @property
    def capabilities(self) -> frozenset[Capability]:
        """What the model can do."""
        return capabilities_of(self.kind, self.output)

    @property
    def sides(self) -> tuple[Side, ...]:
        """The sides of a batch that the model reads: "encoder", "decoder" or both."""
        return SIDES[self.kind]

    def can(self, what: Capability) -> bool:
        """Whether the model has a capability."""
        return what in self.capabilities

    @property
    def dtype(self) -> str:
        """Type of the computation."""
        return "float32"

    @property
    def quantization(self) -> str:
        """Of the matrix products with kernels."""
        return "none"

    @property
    def types(self) -> int:
        """Number of token types; 0 for none."""
        return 0

    @property
    def labels(self) -> tuple[str, ...]:
        """Texts of the classes that the logits score, in the order of their ids."""
        return ()

    @property
    def noncausal_prefix(self) -> bool:
        """Whether all tokens of `Tokens.prefix` see each other."""
        return False

    @property
    def execution(self) -> dict[str, Any]:
        """Those of the fields EXECUTION that the model has, with their values."""
        return {field.name: getattr(self, field.name) for field in fields(self) if field.name in EXECUTION}

    @property
    def lighter(self) -> dict[str, Any]:
        """Fields of EXECUTION, with values that make a step take less memory and no less time; {} where there are none left."""
        return {}

    def row_bytes(self, length: int) -> int:
        """Return about how many bytes a pass over one row of `length` tokens takes on a CPU beyond what grows with the length alone; 0 for none."""
        return 0

    def room(self, prompt: int) -> int | None:
        """Return how many tokens can be generated for a prompt of so many; None where there is no limit."""
        limit = self.max_length
        return limit if limit is None or not self.can("continue_text") else limit - prompt

    @classmethod
    def old_objective(cls, model: Mapping[str, Any], loss: Any) -> Any:
        """Return the JSON of the objective of a run.json of before there were objectives.

        model, loss: the JSON of its model and of its loss. A model that had a part of the loss among its own fields says here which objective that makes.
        """
        return loss

    @property
    @abc.abstractmethod
    def max_length(self) -> int | None:
        """Longest sequence the positions allow, in tokens; None where there is no limit."""

    @abc.abstractmethod
    def build(self) -> Model:
        """Return the model."""

    def check_run(self, *, packing: bool, context: int) -> None:  # a model without limits has nothing to check
        """Raise UserError where the model cannot be trained as a run asks. packing: several texts share a row. context: devices that rows are divided over."""

    def portable(self) -> ModelConfig:
        """Return the same without kernels that one platform alone has, as evaluation and inference take it; parameters are the same."""
        return self
