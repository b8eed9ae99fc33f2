"""A small builder of ONNX graphs: an operator is a call, what it gives is a name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

OPSET = 17
IR_VERSION = 8
"""Of ONNX 1.12, which every ONNX Runtime in use reads."""


class GraphBuilder:
    """Collects inputs, constants and operators in the order in which they are asked for."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.inputs: list[onnx.ValueInfoProto] = []
        self.constants: list[onnx.TensorProto] = []
        self.nodes: list[onnx.NodeProto] = []

    def input(self, name: str, dtype: type[np.generic], shape: Sequence[int | str]) -> str:
        """Declares an input; a text in its shape names an axis of any length."""
        kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
        self.inputs.append(helper.make_tensor_value_info(name, kind, list(shape)))
        return name

    def constant(self, array: npt.ArrayLike) -> str:
        """Keeps an array in the model."""
        name = f"constant_{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    def axes(self, *axes: int) -> str:
        """Keeps axes, or a shape, as operators take them: int64."""
        return self.constant(np.array(axes, dtype=np.int64))

    def call(self, operator: str, *inputs: str, **attributes: Any) -> str:
        """Appends an operator, gives the name of its only output."""
        output = f"{operator.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, list(inputs), [output], name=output, **attributes))
        return output

    def split(self, value: str, parts: int, axis: int) -> list[str]:
        """Cuts a value into equal parts along an axis, gives their names."""
        if parts == 1:
            return [value]
        outputs = [f"split_{len(self.nodes)}_{part}" for part in range(parts)]
        self.nodes.append(helper.make_node("Split", [value], outputs, name=outputs[0], axis=axis))
        return outputs

    def model(
        self, output: str, name: str, dtype: type[np.generic], shape: Sequence[int | str]
    ) -> onnx.ModelProto:
        """Finishes the graph: `output` becomes the model's only output, called `name`; checked by ONNX."""
        nodes = [*self.nodes, helper.make_node("Identity", [output], [name], name=name)]
        kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
        described = helper.make_tensor_value_info(name, kind, list(shape))
        graph = helper.make_graph(nodes, self.name, self.inputs, [described], self.constants)
        model = helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION
        )
        onnx.checker.check_model(model)
        return model
