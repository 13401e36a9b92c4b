"""Forms in which the kernels of linear layers are stored: quantized to eight, four or two bits, and dequantized one layer at a time.

`t2t.nn.quantized` is something else: products in eight bits of kernels that are stored as floats.
"""

from t2t.nn.weights.formats import FORMATS, Quantize, checked_format
from t2t.nn.weights.kernel import QuantizedKernel, dequantized, kernel_of, quantized

__all__ = ["FORMATS", "Quantize", "QuantizedKernel", "checked_format", "dequantized", "kernel_of", "quantized"]
