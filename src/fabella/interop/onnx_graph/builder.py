"""Build an ONNX graph node by node: each method appends one operator and returns the name of its output."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

OPSET = 20
"""The first with Gelu; onnxruntime reads it from 1.17 on."""
IR_VERSION = 9
FLOAT, INT64 = 1, 7
"""Types of ``onnx.TensorProto``."""


@dataclass(slots=True)
class GraphBuilder:
    """Nodes, constants, inputs and outputs of a graph in the order in which they are added."""

    onnx: Any
    """The package onnx."""
    half: bool = False
    """Store matrices as float16; they are cast to float32, in which all is computed."""
    prefix: str = ""
    """Begins the names of values: those of the body of a loop differ from those of the graph around it."""
    nodes: list[Any] = field(default_factory=list[Any])
    constants: list[Any] = field(default_factory=list[Any])
    inputs: list[Any] = field(default_factory=list[Any])
    outputs: list[Any] = field(default_factory=list[Any])
    _integers: dict[tuple[int, ...], str] = field(default_factory=dict[tuple[int, ...], str])

    def node(self, kind: str, *inputs: str, outputs: int = 1, **attributes: Any) -> Any:
        """Append an operator; return the name of its output, or a tuple of names for several."""
        names = [f"{self.prefix}{kind}_{len(self.nodes)}_{number}" for number in range(outputs)]
        self.nodes.append(self.onnx.helper.make_node(kind, list(inputs), names, **attributes))
        return names[0] if outputs == 1 else tuple(names)

    def rename(self, name: str, new: str) -> str:
        """Give a value a name for the outside."""
        self.nodes.append(self.onnx.helper.make_node("Identity", [name], [new]))
        return new

    def constant(self, array: NDArray[Any], label: str = "constant") -> str:
        """Return the name of a constant; a float32 matrix is stored in the precision of the export."""
        name = f"{self.prefix}{label}_{len(self.constants)}"
        half = self.half and array.dtype == np.float32 and array.ndim == 2
        stored = np.clip(array, -65504, 65504).astype(np.float16) if half else array
        self.constants.append(self.onnx.numpy_helper.from_array(np.ascontiguousarray(stored), name))
        return self.node("Cast", name, to=FLOAT) if half else name

    def integers(self, *values: int) -> str:
        """Return the name of a constant int64 vector."""
        if values not in self._integers:
            self._integers[values] = self.constant(np.array(values, dtype=np.int64))
        return self._integers[values]

    def number(self, value: float) -> str:
        """Return the name of a constant float32 scalar."""
        return self.constant(np.array(value, dtype=np.float32))

    def reshaped(self, value: str, *sizes: int) -> str:
        """Return ``value`` in another shape; 0 keeps a dimension, −1 is the rest."""
        return self.node("Reshape", value, self.integers(*sizes))

    def dimension(self, value: str, axis: int) -> str:
        """Return the size of a dimension as a vector of one number."""
        return self.node("Shape", value, start=axis, end=axis + 1)

    def scalar(self, vector: str) -> str:
        """Return the number of a vector of one number."""
        return self.node("Squeeze", vector, self.integers(0))

    def add_input(self, name: str, kind: int, shape: Sequence[int | str]) -> str:
        """Add an input of the graph."""
        self.inputs.append(self.onnx.helper.make_tensor_value_info(name, kind, list(shape)))
        return name

    def add_output(self, value: str, name: str, shape: Sequence[int | str]) -> None:
        """Make a value an output of the graph."""
        self.rename(value, name)
        self.outputs.append(self.onnx.helper.make_tensor_value_info(name, FLOAT, list(shape)))

    def model(self, name: str) -> Any:
        """Return the ``ModelProto``."""
        helper = self.onnx.helper
        graph = helper.make_graph(self.nodes, name, self.inputs, self.outputs, self.constants)
        return helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION, producer_name="fabella"
        )
