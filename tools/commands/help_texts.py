"""What `--help` says before and after the options."""

MODEL = "the model: .onnx, .keras, .h5, .pt2, .tflite, a SavedModel, or file.py:function that returns one; only read"
DATA = "SPEC is a .npz, a folder of .npz, .npy or test_data_set_*, or file.py:function"
EPILOG = """examples:
  optimize model.onnx                                  within 0.01 nats (or 1 %) of the original's outputs
  optimize model.onnx --data inputs.npz --max-drop 0.02 --report report.json
  optimize model.onnx -p 'svd{rank=0.5 layers=encoder.*},prune' --remarks
  optimize model.keras --data inputs.npz               Keras and PyTorch models are lowered to ONNX first
  optimize net.py:make --input 'image=[batch,3,32,32]'
  optimize sensitivity model.onnx --data inputs.npz    what each layer would cost; see optimize sensitivity --help
  optimize convert model.keras -o model.onnx           lowers only; see optimize convert --help

exit codes: 0 done, 1 internal error, 2 usage, 3 bad input, 4 verification failed, 5 accuracy gate failed,
6 budget not reached, 7 a pass or frontend of another package failed, 8 the time limit is over

`optimize` and `kronnx` are one program."""
BUDGET = """Without any of these the outputs stay within a mean KL of 0.01 nats (classes, decisions), a relative error
of 1 % (values) and 1 % of changed elements (integers), or nothing is written: with 95 % confidence on all that the
samples come from, so that more samples let the result come closer to the limit. --speedup, --size, --macs and options
that fix how much is taken, as in 'svd{rank=0.5}', set no limit by themselves: add --max-drop, or the verdict begins
with how far the outputs moved."""
TEXT = "Makes a trained model smaller and faster in ONNX, and measures how little its outputs changed."
SENSITIVITY_TEXT = """Shows what each layer of a trained ONNX model would cost, the most sensitive first: the predicted
divergence of the outputs, in nats per sample, if its rank were halved, and if a quarter of the channels that it reads
were removed and the rest made up for them. Beside them: the trace of the layer's block of the curvature, the
effective ranks, (tr M)^2 / ||M||_F^2, of its two factors A (inputs) and G (gradients), and how they were measured
(expand, reduce, or input-only where no gradient could be had). The model is only read."""
SENSITIVITY_EPILOG = """examples:
  kronnx sensitivity model.onnx --data inputs.npz
  kronnx sensitivity model.onnx --data inputs.npz --output layers.json

exit codes: 0 done, 1 internal error, 2 usage, 3 bad input, 4 verification failed, 7 a frontend of another package
failed. A model file that is called `sensitivity` is given as ./sensitivity; `optimize sensitivity` is the same
command."""


CONVERT_TEXT = """Lowers a model of Keras, TensorFlow or PyTorch to ONNX, names its nodes for its layers, compares it
with the original on example inputs, and writes it."""
CONVERT_EPILOG = """examples:
  kronnx convert model.keras -o model.onnx
  kronnx convert net.py:make --input 'ids=int64[batch,time]' --input 'mask=float32[batch,time]' -o net.onnx

exit codes: 0 done, 1 internal error, 2 usage, 3 bad input, 4 the lowered model is not the original,
7 a frontend of another package failed. `optimize convert` is the same command."""
