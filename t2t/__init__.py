"""Train text-to-text models in JAX: tasks with prefixes, sharded encoders, decoders and encoder-decoders."""

__version__ = "0.1.0"
