"""The interface of models for training, decoding and export: pure functions of a nested dict of parameters."""

from __future__ import annotations

import abc
import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, fields
from functools import partial
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import nnx
from flax.traverse_util import flatten_dict
from jaxtyping import Array, Float, Int

from t2t.errors import UserError
from t2t.limits import Configuration, Ids
from t2t.losses import LossSums
from t2t.nn.aux import Aux
from t2t.nn.capabilities import SIDES, Capability, Kind, Output, Side, capabilities_of
from t2t.nn.pooling import Pooling, pool
from t2t.types import Array as AnyArray
from t2t.types import Batch, Params

Cache = Any
"""A pytree whose structure only the model knows."""

__all__ = [
    "EXECUTION",
    "PRECISION",
    "RATES",
    "START",
    "VECTORS",
    "Cache",
    "Capability",
    "Kind",
    "Model",
    "ModelConfig",
    "Output",
    "ParamSpec",
    "Part",
]

EXECUTION = ("attention", "attention_block", "remat", "unroll")
"""Configuration fields that select how a model is computed, but not what it computes. A run may change them when it resumes; an export ignores them."""
PRECISION = ("dtype", "quantization")
"""Configuration fields that select the precision: the model is the same function up to rounding. Parameters are always float32."""
RATES = ("dropout", "attention_dropout", "mlp_dropout", "final_dropout")
"""Configuration fields that only affect training: dropout rates, and where dropout applies."""
START = ("embedding_std", "position_std", "init", "init_std", "init_residual")
"""Configuration fields that only affect the initial parameters."""
VECTORS = (
    "vector_pooling",
    "vector_dense",
    "vector_dense_activation",
    "vector_dense_bias",
    "vector_normalize",
    "vector_max_length",
)
"""Configuration fields that only affect the vectors of texts. config.json of `transformers` does not have them."""


@dataclass(frozen=True)
class ParamSpec:
    """Specification of one parameter.

    axes:      a logical axis name, or None, for each dimension; "layers" comes first if the parameter is stacked over depth.
    decay:     whether weight decay applies. It does not apply to biases, norms and position embeddings.
    trainable: whether training changes the parameter. A frozen parameter has no gradient and no optimizer state.
    used:      share of the values that process one token: less than 1 in the kernels of experts.
    load_rate: for the biases of a router, how much each update changes a bias against the load of its expert (`t2t.optim.balance`); None for all others. The
               gradient of these biases is the load.
    stands_for: of a part of a quantized kernel: how many of the kernel's values each of its values holds. None for parameters of the model itself.
    """

    shape: tuple[int, ...]
    dtype: Any
    axes: tuple[str | None, ...]
    decay: bool
    trainable: bool = True
    used: float = 1.0
    load_rate: float | None = None
    stands_for: float | None = None

    @property
    def size(self) -> int:
        """Number of parameters of the model that it holds."""
        return int(math.prod(self.shape) * (1.0 if self.stands_for is None else self.stands_for))


class Model(abc.ABC):
    """A model as pure functions. It holds no arrays. `jax.jit` can trace every method."""

    config: ModelConfig
    specs: dict[str, Any]
    """Nested dict of ParamSpec with the structure of the parameters."""

    @abc.abstractmethod
    def init(self, key: jax.Array) -> Params:
        """Return initial parameters for a random key. Under jit with out_shardings they are created sharded."""

    @abc.abstractmethod
    def hidden(self, params: Params, batch: Batch, *, dropout_key: jax.Array | None = None) -> Float[Array, "B L D"]:
        """Run the stacks. There is no dropout without a key."""

    def forward(
        self, params: Params, batch: Batch, *, dropout_key: jax.Array | None = None
    ) -> tuple[Float[Array, "B L D"], Aux]:
        """Return the output of `hidden` and the auxiliary terms that layers report, which belong to the loss (see `t2t.nn.aux.with_aux`)."""
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
        """Return the output of `logits` and the auxiliary terms that layers report."""
        return self.logits(params, batch, dropout_key=dropout_key), {}

    def adapted(self, attach: Callable[[nnx.Module], None]) -> Model:
        """Return the model with adapters. attach: gives them to a newly built network (`t2t.adapters.attach`)."""
        raise UserError(
            f"adapter (--adapter): {type(self).__name__} cannot have adapters, because it is not a FunctionalModel of t2t.models"
        )

    def extended(self, attach: Callable[[nnx.Module], None]) -> Model:
        """Return the model with further parameters, which its own functions do not read. attach: gives them to a newly built network."""
        raise UserError(
            f"objective (experiment.objective): {type(self).__name__} cannot have parameters of the objective, because it is not a FunctionalModel of t2t.models"
        )

    def rebuilt(self, config: ModelConfig) -> Model:
        """Return the model of another configuration with the same parameters, with the adapters and further parameters of this one."""
        return config.build()

    def started(self, params: Params, fresh: Collection[str]) -> Params:
        """Return the parameters with first values for those that depend on others. fresh: paths of the parameters that do not come from another run."""
        return params

    def merged(self, params: Params) -> Params:
        """Return the parameters of the model without adapters and quantized kernels that computes the same; `params` if there are none."""
        return params

    @property
    def float_specs(self) -> dict[str, Any]:
        """The specs of the same model without quantized kernels."""
        return self.specs

    @property
    def quantized_kernels(self) -> frozenset[str]:
        """Paths of the quantized kernels, as in `float_specs`."""
        floats, own = (flatten_dict(specs, sep="/").keys() for specs in (self.float_specs, self.specs))
        return frozenset(floats - own)

    def quantized(
        self, format: str, wanted: Callable[[str], bool] | None = None, *, option: str = "--quantize"
    ) -> Model:
        """Return the model with quantized kernels in the linear layers of its stacks (`t2t.nn.weights.network`).

        format: name of the format, see `t2t.nn.weights`. "none" returns the model itself.
        option: where the format came from, for error messages.
        wanted: whether to quantize the kernel with this path; None quantizes all.
        Raises UserError if the model cannot have quantized kernels.
        """
        if format == "none":
            return self
        raise UserError(
            f"quantize {format!r}: {type(self).__name__} cannot have quantized kernels, because it is not a FunctionalModel of t2t.models. Nearest: none."
        )

    def compressed(self, params: Params) -> Params:
        """Return the parameters with the kernels quantized that the model has quantized; `params` if there are none. params: as in `float_specs`, or in part."""
        return params

    def expanded(self, params: Params) -> Params:
        """Return the parameters with float kernels, as in `float_specs`; `params` if no kernel is quantized."""
        return params

    def vectors(
        self,
        params: Params,
        hidden: Float[Array, "B L D"],
        segments: Int[AnyArray, "B L"],
        *,
        slots: int = 1,
        pooling: Pooling | None = None,
    ) -> Float[Array, "B S V"]:
        """Return the float32 vectors of the segments 1 to `slots` of each row, made from the output of `hidden` and not normalized.

        pooling: see `t2t.nn.pooling.pool`; None means that of the configuration.
        """
        return pool(hidden, segments, self.config.vector_pooling if pooling is None else pooling, slots=slots)

    def losses(self, params: Params, batch: Batch, loss: Any, *, dropout_key: jax.Array | None = None) -> LossSums:
        """Return `loss.loss(self, ...)`, the sums of an objective. This is the method name of version 0.1.0, kept for user code."""
        return loss.loss(self, params, batch, dropout_key)

    @abc.abstractmethod
    def start(self, params: Params, batch: Batch, length: int) -> tuple[Float[Array, "B V"], Cache]:
        """Process the encoder's tokens and the decoder's prompt.

        Prompts are padded at the end and may differ in length (segment 0 is padding). The cache has room for `length`
        decoder positions, including the prompt. The logits are those after the last prompt token of each row.
        """

    @abc.abstractmethod
    def step(self, params: Params, cache: Cache, ids: Int[Array, "B"]) -> tuple[Float[Array, "B V"], Cache]:
        """Process one more token per row and return the logits after it."""

    def stepper(self, params: Params) -> Callable[[Cache, Int[Array, "B"]], tuple[Float[Array, "B V"], Cache]]:
        """Return `step` with bound parameters, for a loop of steps. Work that all steps share is done here, before the loop."""
        return partial(self.step, params)

    @abc.abstractmethod
    def grow(self, cache: Cache, length: int) -> Cache:
        """Return the cache, forked or not, with room for `length` decoder positions, including the prompt. `length` must be more than it has room for."""

    @abc.abstractmethod
    def select(self, cache: Cache, rows: Int[Array, "N"]) -> Cache:
        """Return the cache of the given rows. Rows may repeat."""

    def fork(self, cache: Cache, count: int) -> Cache:
        """Return the cache with each row repeated `count` times, as hypotheses on one prompt. Copies of a row are adjacent."""
        rows = jax.tree.leaves(cache)[0].shape[0]
        return self.select(cache, jnp.repeat(jnp.arange(rows), count))

    def reorder(self, cache: Cache, rows: Int[Array, "N"]) -> Cache:
        """Return a forked cache with the given rows. Each row must be replaced by a hypothesis on the same prompt."""
        return self.select(cache, rows)


@dataclass(frozen=True, kw_only=True)
class Part:
    """A model that is a part of another model.

    config: its configuration.
    params: returns its parameters, given those of the whole model.
    embeds: whether the vectors of texts are this part's.
    """

    config: ModelConfig
    params: Callable[[Params], Params]
    embeds: bool = False


@dataclass(frozen=True, kw_only=True)
class ModelConfig(Configuration, abc.ABC):
    """Configuration of a model: an architecture and its sizes. See `t2t.models` for the families.

    Args:
        vocab_size: number of rows of the embedding table: the ids of the vocabulary, rounded up so that the mesh divides it.
    """

    kind: ClassVar[Kind]
    vocab_size: Ids

    @property
    def output(self) -> Output:
        """What the logits score. Only encoders score something other than tokens."""
        return "tokens"

    @property
    def answer_places(self) -> int | None:
        """Number of first positions of an example that may have a target; None if any position may."""
        return None

    def num_outputs(self, length: int) -> int:
        """Return the number of logits at each position, in rows of `length` tokens."""
        return self.vocab_size

    @property
    def capabilities(self) -> frozenset[Capability]:
        """What the model can do."""
        return capabilities_of(self.kind, self.output)

    @property
    def sides(self) -> tuple[Side, ...]:
        """The sides of a batch that the model reads: "encoder", "decoder" or both."""
        return SIDES[self.kind]

    def parts(self) -> Mapping[str, Part]:
        """Return the models that an export writes instead of this one, by name; {} if it writes the model itself."""
        return {}

    def can(self, what: Capability) -> bool:
        """Whether the model has a capability."""
        return what in self.capabilities

    @property
    def dtype(self) -> str:
        """Type of the computation."""
        return "float32"

    @property
    def quantization(self) -> str:
        """Type of the matrix products with kernels."""
        return "none"

    @property
    def vector_pooling(self) -> Pooling:
        """How the vector of a text is computed, for models that can "embed"."""
        return "mean"

    @property
    def vector_normalize(self) -> bool:
        """Whether the vector of a text is divided by its Euclidean norm."""
        return False

    @property
    def vector_max_length(self) -> int | None:
        """Longest text that has a vector, in tokens; None if there is no limit besides the positions."""
        return None

    @property
    def types(self) -> int:
        """Number of token types; 0 means none."""
        return 0

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the classes that the logits score, in the order of their ids."""
        return ()

    @property
    def num_labels(self) -> int:
        """Number of classes or numbers that the logits score for a text or word. A single number has no name in `labels`."""
        return len(self.labels)

    @property
    def noncausal_prefix(self) -> bool:
        """Whether all tokens that `Tokens.prefix` marks see each other."""
        return False

    @property
    def execution(self) -> dict[str, Any]:
        """The fields of EXECUTION that the model has, with their values."""
        return {field.name: getattr(self, field.name) for field in fields(self) if field.name in EXECUTION}

    def sent_to_experts(self, lengths: Mapping[Side, int]) -> Mapping[str, float]:
        """Return how many numbers a row sends along the mesh axis "expert" forward, by kind of collective; {} without experts.

        lengths: length of a row of each side.
        """
        return {}

    @property
    def lighter(self) -> dict[str, Any]:
        """Changes to fields of EXECUTION that make a step use less memory, possibly at the cost of speed; {} if there are none."""
        return {}

    def row_bytes(self, length: int) -> int:
        """Return the approximate bytes that one row of `length` tokens needs on a CPU, beyond what is linear in the length; 0 if none."""
        return 0

    def room(self, prompt: int) -> int | None:
        """Return how many tokens can be generated after a prompt of `prompt` tokens; None if there is no limit."""
        limit = self.max_length
        return limit if limit is None or not self.can("continue_text") else limit - prompt

    @classmethod
    def old_objective(cls, model: Mapping[str, Any], loss: Any) -> Any:
        """Return the JSON of the objective for a run.json from before objectives existed.

        model, loss: JSON of its model and of its loss. Models that had options of the loss among their own fields override this.
        """
        return loss

    @property
    @abc.abstractmethod
    def max_length(self) -> int | None:
        """Longest sequence that the positions allow, in tokens; None if there is no limit."""

    @abc.abstractmethod
    def build(self) -> Model:
        """Return the model."""

    def check_run(self, *, packing: bool, context: int) -> None:  # no limits by default
        """Raise UserError if the model does not support what the run needs.

        packing: several examples share a row.
        context: number of devices that divide the rows along their length.
        """

    def portable(self) -> ModelConfig:
        """Return the same configuration without platform-specific kernels, for evaluation and inference. The parameters are the same."""
        return self
