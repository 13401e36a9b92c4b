"""The interface of mixers, the layers that mix positions: in training, when processing a prompt, and when decoding one token at a time.

A mixer is a module and its configuration. Stacks, models and decoding only use this interface. Attention is one implementation
(`t2t.nn.attention.layer`).
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from flax import nnx, struct
from jaxtyping import Array, Float, Int

from t2t.errors import UserError
from t2t.limits import Configuration
from t2t.nn.aux import Aux
from t2t.nn.dropout import Keys
from t2t.nn.initializers import Initializer
from t2t.nn.quantized import Quantization
from t2t.nn.state import State
from t2t.types import Array as AnyArray


@dataclass(frozen=True, kw_only=True)
class Context:
    """What the layers of a stack know about the tokens in one pass.

    segments:  number of each token's example in its row, 0 for padding. Only tokens of the same segment may mix.
    positions: position of each token in its example; None if nothing reads them.
    prefix:    1 for the tokens of a prefix that every token of the segment may see, or None if there is no such prefix. In a step, of the prompt's tokens.
    bidirectional: tokens also see later tokens, as in an encoder.
    memory:    the encoder's output for cross attention, or None.
    memory_segments: segments of the encoder's tokens.
    index:     in a step, the position of each row in its state; None in a pass over whole rows.
    room:      in a step, 1 for each position that states have room for.
    prompt:    in a step of hypotheses that share a prompt, 1 for each token of the prompt and 0 for padding, with a row for each hypothesis; None if each row's
               state contains its prompt.
    keys:      dropout keys.
    inputs:    the result of the mixer's `prepare`.
    cross_inputs: the result of `prepare_cross`.
    handed:    what the mixer of an earlier layer hands on (`MixerConfig.hands_on`), or None.
    read:      for a mixer that reads the encoder's output itself (`MixerConfig.reads_memory`): the result of its `read`, in a step of its `keep`.
    """

    segments: Int[AnyArray, "B L"]
    positions: Int[Array, "B L"] | None = None
    prefix: Int[AnyArray, "B L"] | None = None
    bidirectional: bool = False
    memory: Float[Array, "B k M"] | None = None
    memory_segments: Int[AnyArray, "B k"] | None = None
    index: Int[Array, "B"] | None = None
    room: Int[Array, "B R"] | None = None
    prompt: Int[Array, "B P"] | None = None
    keys: Keys = field(default_factory=lambda: Keys(None))
    inputs: Any = None
    cross_inputs: Any = None
    handed: Any = None
    read: Any = None


@dataclass(frozen=True, kw_only=True)
class BuildOptions:
    """Options that a stack passes to its layers when it builds them.

    width:     width of the residual stream.
    kernel_init: function (inputs, shrink=1.0, residual=False) that returns the initializer of a kernel with that many inputs. shrink: factor on the standard
               deviation, for the kinds that depend on the inputs; residual: the kernel writes to the residual stream.
    bidirectional: tokens also see later tokens.
    memory_width: width of the encoder's output, for cross attention.
    dropout:   dropout rate inside feed-forward layers.
    quantization: type of the matrix products with kernels.
    """

    width: int
    kernel_init: Callable[..., Initializer]
    bidirectional: bool = False
    memory_width: int | None = None
    dropout: float = 0.0
    quantization: Quantization = "none"


@dataclass(frozen=True, kw_only=True)
class Capabilities:
    """The features that a kind of mixer or feed-forward layer supports. A configuration that needs an undeclared feature raises an error.

    bidirectional: mix with later tokens too, in encoders.
    packing:  keep the segments of a row separate.
    prefix:   let all tokens of a segment see its prefix.
    decoding: decode step by step, with a state.
    context:  divide rows over devices along their length.
    """

    bidirectional: bool = False
    packing: bool = False
    prefix: bool = False
    decoding: bool = False
    context: bool = False


@dataclass(frozen=True, kw_only=True)
class Needs:
    """The features that a model or a run needs from its mixers, with the names of `Capabilities`. dtype: type of the computation."""

    bidirectional: bool = False
    packing: bool = False
    prefix: bool = False
    decoding: bool = False
    context: int = 1
    dtype: str = "float32"


@struct.dataclass
class Handed:
    """The output of a layer whose mixer hands values on to later layers.

    output: the output, [B L D].
    values: a pytree of arrays with axes [B L ...], `Context.handed` of all later layers.
    """

    output: Float[Array, "B L D"]
    values: Any


class Mixer(nnx.Module, abc.ABC):
    """A layer that mixes information between positions."""

    @abc.abstractmethod
    def __call__(self, x: Float[Array, "B L D"], context: Context) -> tuple[Float[Array, "B L D"], Aux]:
        """Mix whole rows. Also return the auxiliary terms to report, {} for none."""

    def prefill(self, x: Float[Array, "B L D"], context: Context, length: int) -> tuple[Float[Array, "B L D"], State]:
        """Mix whole rows, which hold one prompt each and are padded at the end. Also return a state with room for `length` positions."""
        raise NotImplementedError(f"{type(self).__name__} does not support step-by-step decoding")

    def step(
        self, x: Float[Array, "B 1 D"], state: Any, context: Context, shared: Any = None
    ) -> tuple[Float[Array, "B 1 D"], Any]:
        """Mix one more position per row, at `context.index`, with the positions before it. Also return the updated state.

        shared: result of `State.shared`, if rows are hypotheses that share a prompt.
        """
        raise NotImplementedError(f"{type(self).__name__} does not support step-by-step decoding")

    def step_entry(
        self, x: Float[Array, "B 1 D"], state: Any, context: Context, shared: Any = None
    ) -> tuple[Float[Array, "B 1 D"], Any]:
        """Mix like `step`, but return the input of `State.write` instead of the state, so that the states of all layers can be written at once."""
        return self.step(x, state, context, shared)


class MemoryReader(nnx.Module, abc.ABC):
    """A layer that reads the encoder's output."""

    @abc.abstractmethod
    def read(self, memory: Float[Array, "B k M"]) -> Any:
        """Return what the layer and `keep` need of the encoder's output."""

    @abc.abstractmethod
    def keep(self, memory: Any) -> Any:
        """Convert the result of `read` to the form that steps use, a pytree with the rows first."""


class CrossMixer(MemoryReader):
    """A layer that brings information from the encoder's output to the positions."""

    @abc.abstractmethod
    def __call__(self, x: Float[Array, "B L D"], memory: Any, context: Context) -> tuple[Float[Array, "B L D"], Aux]:
        """Mix whole rows. memory: result of `read`."""

    @abc.abstractmethod
    def step(self, x: Float[Array, "R 1 D"], memory: Any, context: Context) -> Float[Array, "R 1 D"]:
        """Mix one more position per row. memory: result of `keep`; R / B consecutive rows share one of its rows."""


class TableConfig(abc.ABC):
    """Configuration of a module with parameters that the mixers of several layers share. Equal configurations are one module."""

    @abc.abstractmethod
    def build(self, options: BuildOptions) -> nnx.Module:
        """Return the module."""


@dataclass(frozen=True, kw_only=True)
class MixerConfig(Configuration, abc.ABC):
    """Configuration of a kind of mixer.

    name: name of the mixer's parameters in a layer.
    capabilities: the features that this kind of mixer supports.
    reads_memory: the mixer is a `MemoryReader`: it gets the encoder's output in `Context.read`, and the layer has no cross attention.
    """

    name: ClassVar[str] = "mixer"
    capabilities: ClassVar[Capabilities] = Capabilities()
    reads_memory: ClassVar[bool] = False

    @property
    def hands_on(self) -> bool:
        """Whether the mixer hands values on to later layers: the output that its methods return is a `Handed`.

        Its layer is one of `StackConfig.first`, so no loop over layers carries the values.
        """
        return False

    @property
    def takes_handed(self) -> bool:
        """Whether the mixer needs the values that an earlier layer hands on, `Context.handed`."""
        return False

    @abc.abstractmethod
    def build(self, options: BuildOptions) -> Mixer:
        """Return the mixer."""

    def build_cross(self, options: BuildOptions) -> CrossMixer:
        """Return the layer that reads the encoder's output. Raises UserError if this kind of mixer has none."""
        raise UserError(f"{type(self).__name__} cannot read an encoder's output (model.decoder)")

    def tables(self) -> Mapping[str, TableConfig]:
        """Return the configurations of the modules that mixers share, by the name of their parameters; {} for none."""
        return {}

    @property
    def tables_per_layer(self) -> bool:
        """Whether each layer has its own modules of `tables`. Otherwise the stack has them once."""
        return False

    def prepare(self, context: Context, tables: Mapping[str, Any]) -> Any:
        """Return what mixers of this configuration derive from the context, computed once for all layers of a stack: `Context.inputs`.

        tables: the modules of `tables`.
        """
        return None

    def prepare_cross(self, context: Context) -> Any:
        """Return the same for what reads the encoder's output: `Context.cross_inputs`."""
        return None

    @property
    def keeps_products(self) -> bool:
        """Whether matrix products inside the mixer may be saved for the backward pass. False if the mixer recomputes them itself."""
        return True

    def canonical(self) -> MixerConfig:
        """Return the configuration with default values for the options that do not change what is computed, for comparisons."""
        return self

    def row_bytes(self, length: int) -> int:
        """Return the approximate bytes that one row of `length` tokens needs on a CPU, beyond what is linear in the length; 0 if none."""
        return 0

    def check(self, needs: Needs) -> None:
        """Raise UserError if this kind of mixer does not support what is needed."""
        for name, why in lacking(self.capabilities, needs):
            raise UserError(f"mixer {type(self).__name__} {why} (capabilities.{name} is False)")


def lacking(can: Capabilities, needs: Needs) -> Iterator[tuple[str, str]]:
    """Yield the name of each capability that is needed and missing, with the reason for the error message."""
    if needs.bidirectional and not can.bidirectional:
        yield "bidirectional", "does not see later tokens, which the layers of an encoder must see"
    if needs.prefix and not can.prefix:
        yield "prefix", "has no prefix mask (--model.mask prefix). Nearest: causal"
    if needs.decoding and not can.decoding:
        yield "decoding", "does not support step-by-step decoding, which a decoder needs to generate text"
    if needs.packing and not can.packing:
        yield "packing", "does not separate the examples of a packed row (--data.pack). Nearest: False"
    if needs.context > 1 and not can.context:
        yield "context", f"cannot divide rows along their length (--mesh.context {needs.context}). Nearest: 1"
