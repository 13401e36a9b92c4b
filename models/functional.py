"""Wrap an NNX network in the functional `Model` interface that the rest of the library uses."""

from __future__ import annotations

import abc
import copy
from collections.abc import Callable, Collection
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from t2t.errors import UserError
from t2t.models.calibration import Calibration, Errors
from t2t.models.states import each
from t2t.models.transformer import Layers
from t2t.models.transformer_config import TransformerConfig
from t2t.models.virtual import on_outputs, prepended, virtual_tokens
from t2t.models.walking import walking
from t2t.nn.adapters import ADAPTERS, adapters_of_rows, merged, started
from t2t.nn.aux import Aux
from t2t.nn.capabilities import Side
from t2t.nn.dropout import Keys
from t2t.nn.model import Cache, Model, ModelConfig
from t2t.nn.parameters import Definition
from t2t.nn.pooling import Pooling
from t2t.nn.state import taken
from t2t.nn.weights.network import check_quantizable, compressed, expanded, quantize_kernels
from t2t.types import Array as AnyArray
from t2t.types import Batch, Params, Tokens


class Network(nnx.Module, abc.ABC):
    """A network that contains its parameters. Its methods are those of `t2t.nn.model.Model`, without the parameters argument."""

    @abc.abstractmethod
    def forward(self, batch: Batch, keys: Keys) -> tuple[Float[Array, "B L D"], Aux]:
        """Run the stacks. Also return the auxiliary terms that their layers report."""

    @abc.abstractmethod
    def head(self, hidden: Float[Array, "*B D"]) -> Float[Array, "*B V"]:
        """Return float32 logits."""

    def scored(self, batch: Batch, keys: Keys) -> tuple[Float[Array, "B L V"], Aux]:
        """Return float32 logits aligned with `batch.targets`, and the auxiliary terms that layers report."""
        hidden, aux = self.forward(batch, keys)
        return self.head(hidden), aux

    def vector(self, pooled: Float[Array, "*B D"]) -> Float[Array, "*B V"]:
        """Return the vector of a text, made from its pooled outputs."""
        return pooled

    @abc.abstractmethod
    def start(self, batch: Batch, length: int) -> tuple[Float[Array, "B V"], Cache]:
        """Process the prompt."""

    @abc.abstractmethod
    def step(self, cache: Cache, ids: Int[Array, "B"], layers: Layers = None) -> tuple[Float[Array, "B V"], Cache]:
        """Process one more token per row. layers: the result of `layer_params`, if it was called."""

    def layer_params(self) -> Layers:
        """Return a copy of parameters in a layout that is faster for many steps, or None."""
        return None


SHARED = ("memory", "prompt", "prefix")
"""Entries of a cache's "rows" that a forked cache stores once for all copies of a row."""


class FunctionalModel(Model):
    """A model that binds the given parameters to a network in each call.

    In a cache, "rows" holds arrays with the batch axis first, and "layers" the layers' states and memories (`t2t.models.states`).
    """

    def __init__(self, config: TransformerConfig, network: Network) -> None:
        self.config = config
        self._definition = Definition(network)
        self._attach: Callable[[nnx.Module], None] | None = None
        self._extend: Callable[[nnx.Module], None] | None = None
        self._virtual = 0
        self._float: FunctionalModel | None = None
        self._format, self._kernels = "none", frozenset[str]()
        self.specs = self._definition.specs

    def adapted(self, attach: Callable[[nnx.Module], None]) -> FunctionalModel:
        """Return the model with adapters, see `t2t.nn.model.Model.adapted`."""
        assert self._attach is None, "the model has adapters"
        assert self._float is None, "adapters come before quantized kernels"
        model = copy.copy(self)
        network = self._definition.unbound()
        attach(network)
        model._attach, model._definition = attach, Definition(network)
        model.specs, model._virtual = model._definition.specs, virtual_tokens(network, self.config)
        return model

    def extended(self, attach: Callable[[nnx.Module], None]) -> FunctionalModel:
        """Return the model with further parameters, see `t2t.nn.model.Model.extended`."""
        assert self._extend is None, "the model has further parameters"
        model, network = copy.copy(self), self._definition.unbound()
        attach(network)
        model._extend, model._definition = attach, Definition(network)
        model._float = None if self._float is None else self._float.extended(attach)
        model.specs = model._definition.specs
        return model

    def rebuilt(self, config: ModelConfig) -> Model:
        """Return the model of another configuration with the same parameters, with all that was added to this one."""
        model = config.build()
        model = model if self._attach is None else model.adapted(self._attach)
        model = model.quantized(self._format, self._kernels.__contains__)
        return model if self._extend is None else model.extended(self._extend)

    def quantized(
        self, format: str, wanted: Callable[[str], bool] | None = None, *, option: str = "--quantize"
    ) -> FunctionalModel:
        """Return the model with quantized kernels, see `t2t.nn.model.Model.quantized`. Raises UserError if it has experts, or if its products round kernels in another way."""
        if format == "none":
            return self
        assert self._float is None, "the kernels are quantized"
        check_quantizable(self.specs, self.config.quantization, format, option=option)
        model, network = copy.copy(self), self._definition.unbound()
        model._float, model._format = self, format
        model._kernels = frozenset(quantize_kernels(network, format, wanted))
        model._definition = Definition(network)
        model.specs = model._definition.specs
        return model

    @property
    def float_specs(self) -> dict[str, Any]:
        """The specs of the same model without quantized kernels."""
        return self.specs if self._float is None else self._float.specs

    def compressed(self, params: Params) -> Params:
        """Return the parameters with quantized kernels, see `t2t.nn.model.Model.compressed`."""
        return compressed(params, self._kernels, self._format) if self._kernels else params

    def calibrated(self, params: Params, batch: Batch, *, ordered: bool = False) -> tuple[Params, Errors]:
        """Return the parameters with quantized kernels that are calibrated on the rows of a batch (`t2t.models.calibration`), and the errors of the kernels.

        params: as in `float_specs`. Call it outside of a trace.
        """
        assert self._float is not None, "no kernel is quantized"
        network = self._float._definition.bind(params)
        calibration = Calibration(network, self._format, self._kernels, ordered=ordered)
        with walking(calibration.walk):
            network.forward(self._prepended(batch), Keys(None))
        return calibration.compressed(params), calibration.errors

    def expanded(self, params: Params) -> Params:
        """Return the parameters with float kernels, see `t2t.nn.model.Model.expanded`."""
        return expanded(self._definition.bind(params), params) if self._kernels else params

    def started(self, params: Params, fresh: Collection[str]) -> Params:
        """Return the parameters with first values for those that depend on others, see `t2t.nn.model.Model.started`."""
        return params if self._attach is None else started(self._definition.bind(params), params, fresh)

    def merged(self, params: Params) -> Params:
        """Return the parameters of the model without adapters and quantized kernels that computes the same; `params` if there are none.

        Raises UserError if the adapter is virtual tokens, which no parameters of the model compute, or if products would round the merged kernels to ternary weights.
        """
        if self._virtual:
            raise UserError(
                "adapter.kind is 'prompt': virtual tokens cannot be merged into the model. Nearest: --format peft."
            )
        if self._attach is not None and self.config.quantization == "ternary":
            raise UserError(
                "adapter (--adapter): the products of the model would round its change away (model.quantization ternary), so it cannot be merged into the kernels."
                " Nearest: --format peft."
            )
        if self._float is not None:
            return self._float.merged(self.expanded(params))
        return params if self._attach is None else merged(self._definition.bind(params), params)

    def init(self, key: jax.Array) -> Params:
        """Return initial parameters for a random key."""
        if self._float is not None:
            return self.compressed(self._float.init(key))
        params = self._definition.init(key)
        return params if self._attach is None else started(self._definition.bind(params), params, None)

    def hidden(self, params: Params, batch: Batch, *, dropout_key: jax.Array | None = None) -> Float[Array, "B L D"]:
        """Run the stacks. There is no dropout without a key."""
        return self.forward(params, batch, dropout_key=dropout_key)[0]

    def forward(
        self, params: Params, batch: Batch, *, dropout_key: jax.Array | None = None
    ) -> tuple[Float[Array, "B L D"], Aux]:
        """Run the stacks. Also return the auxiliary terms that their layers report."""
        hidden, aux = self._definition.bind(params).forward(self._prepended(batch), Keys(dropout_key))
        return hidden[:, self._outputs :], aux

    def embedded(self, params: Params, tokens: Tokens, side: Side) -> Float[Array, "B L D"]:
        """Return the input of the first block of the encoder or the decoder."""
        network: Any = self._definition.bind(params)
        own = getattr(network, "encoder_embeddings", None) if side == "encoder" else None
        return (network.embeddings if own is None else own)(tokens, Keys(None))

    def encoded(self, params: Params, batch: Batch) -> Float[Array, "B L D"]:
        """Return the output of an encoder-decoder's encoder."""
        network: Any = self._definition.bind(params)
        return network.encoded(self._prepended(batch), Keys(None))[0]

    def head(self, params: Params, hidden: Float[Array, "*B D"]) -> Float[Array, "*B V"]:
        """Return float32 logits."""
        return self._definition.bind(params).head(hidden)

    def logits(self, params: Params, batch: Batch, *, dropout_key: jax.Array | None = None) -> Float[Array, "B L V"]:
        """Return float32 logits aligned with `batch.targets`. There is no dropout without a key."""
        return self.scored(params, batch, dropout_key=dropout_key)[0]

    def scored(
        self, params: Params, batch: Batch, *, dropout_key: jax.Array | None = None
    ) -> tuple[Float[Array, "B L V"], Aux]:
        """Return the logits and the auxiliary terms that layers report."""
        logits, aux = self._definition.bind(params).scored(self._prepended(batch), Keys(dropout_key))
        return logits[:, self._outputs :], aux

    def vectors(
        self,
        params: Params,
        hidden: Float[Array, "B L D"],
        segments: Int[AnyArray, "B L"],
        *,
        slots: int = 1,
        pooling: Pooling | None = None,
    ) -> Float[Array, "B S V"]:
        """Return the float32 vectors of texts; see `t2t.nn.model.Model.vectors`."""
        return self._definition.bind(params).vector(
            super().vectors(params, hidden, segments, slots=slots, pooling=pooling)
        )

    def start(self, params: Params, batch: Batch, length: int) -> tuple[Float[Array, "B V"], Cache]:
        """Process the encoder's tokens and the decoder's prompt; see `t2t.nn.model.Model.start`."""
        numbers = batch.extra.get(ADAPTERS)
        with adapters_of_rows(numbers):
            logits, cache = self._definition.bind(params).start(self._prepended(batch), length + self._outputs)
        if numbers is not None:
            cache["rows"][ADAPTERS] = jnp.asarray(numbers)
        return logits, cache

    def step(self, params: Params, cache: Cache, ids: Int[Array, "B"]) -> tuple[Float[Array, "B V"], Cache]:
        """Process one more token per row and return the logits after it."""
        rows = cache.get("rows", {})  # no model that decodes lacks them; the others refuse
        with adapters_of_rows(rows.get(ADAPTERS)):
            return self._definition.bind(params).step(cache, ids)

    def stepper(self, params: Params) -> Callable[[Cache, Int[Array, "B"]], tuple[Float[Array, "B V"], Cache]]:
        """Return `step` prepared for a loop; see `t2t.nn.model.Model.stepper`."""
        layers = self._definition.bind(params).layer_params()

        def step(cache: Cache, ids: Int[Array, "B"]) -> tuple[Float[Array, "B V"], Cache]:
            with adapters_of_rows(cache["rows"].get(ADAPTERS)):
                return self._definition.bind(params).step(cache, ids, layers)

        return step

    def grow(self, cache: Cache, length: int) -> Cache:
        """Return the cache with room for `length` positions, including the prompt."""
        rows, layers = cache["rows"], cache["layers"]
        # The rows of a forked cache share their prompt: their own part has room for the positions after it.
        own_length = length + self._outputs - (rows["prompt"].shape[1] if "prompt_length" in rows else 0)
        added = own_length - rows["room"].shape[1]
        room = jnp.pad(rows["room"], ((0, 0), (0, added)), constant_values=1)
        grown = each(lambda axis, state: state.grow(added, axis), layers["cache"])
        return {"rows": {**rows, "room": room}, "layers": {**layers, "cache": grown}}

    def select(self, cache: Cache, rows: Int[Array, "N"]) -> Cache:
        """Return the cache of the given rows. Rows may repeat."""
        assert "prompt_length" not in cache["rows"], "rows of a forked cache share their prompt: use `reorder`"
        layers = cache["layers"]
        return {
            "rows": jax.tree.map(lambda x: x[rows], cache["rows"]),
            "layers": {
                "cache": each(lambda axis, state: state.take(rows, axis), layers["cache"]),
                "memory": each(lambda axis, memory: taken(memory, rows, axis), layers["memory"]),
            },
        }

    def fork(self, cache: Cache, count: int) -> Cache:
        """Return the cache with each row repeated `count` times.

        The copies of a row share the prompt and the encoder's tokens, which are stored once: the prompt's part moves to "memory", which no step changes.
        """
        if count == 1:
            return cache
        old_rows, layers = cache["rows"], cache["layers"]
        assert "prompt_length" not in old_rows, "a cache can be forked once, after its prompt"
        prompt = old_rows["prompt"].shape[1]
        rows = {name: x if name in SHARED else jnp.repeat(x, count, axis=0) for name, x in old_rows.items()}
        rows |= {"prompt_length": rows["length"], "room": rows["room"][:, prompt:]}
        states = each(lambda axis, state: state.fork(count, prompt, axis), layers["cache"])
        memory = each(
            lambda axis, memory, state: {**memory, "prompt": state.shared(prompt, axis)},
            layers["memory"],
            layers["cache"],
        )
        return {"rows": rows, "layers": {"cache": states, "memory": memory}}

    def reorder(self, cache: Cache, rows: Int[Array, "N"]) -> Cache:
        """Return a forked cache with the given rows. Each row must be replaced by one with the same prompt."""
        states = each(lambda axis, state: state.take(rows, axis), cache["layers"]["cache"])
        kept_rows = {name: x if name in SHARED else x[rows] for name, x in cache["rows"].items()}
        return {"rows": kept_rows, "layers": {**cache["layers"], "cache": states}}

    @property
    def _outputs(self) -> int:
        """How many of the first outputs are those of virtual tokens."""
        return on_outputs(self._virtual, self.config)

    def _prepended(self, batch: Batch) -> Batch:
        """Return the batch with the virtual tokens."""
        return prepended(batch, self._virtual, self.config)
