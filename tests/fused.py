"""What ONNX Runtime makes of a model: the operators of the graph that it runs."""

import onnx
import onnx_ir
import onnxruntime


def fused(model: onnx_ir.Model, folder) -> list[str]:
    """The operators, in the order of the graph that ONNX Runtime has after all its optimizations."""
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(folder / "fused.onnx")
    options.log_severity_level = 4  # it warns that such a file is for this machine alone
    content = onnx_ir.to_proto(model).SerializeToString()
    onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    return [node.op_type for node in onnx.load(options.optimized_model_filepath).graph.node]
