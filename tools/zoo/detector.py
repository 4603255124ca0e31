"""Detectors on the stamps: MediaPipe's face mesh as TFLite, YOLOv8n with NonMaxSuppression behind it, and YOLOv8n in
half precision as ONNX Runtime's converter writes it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx.compose
import onnx.parser

from .entry import Shipped, packaged_file, require, save_arrays
from .stamps import nudenet, read_stamps

MEDIAPIPE = "mediapipe<0.10.20"  # later wheels come without the models
PICTURES, SIDE = 96, 192
TAIL = """
<ir_version: 8, opset_import: ["" : 17]>
suppression (float[batch, 22, anchors] raw) => (float[kept, 4] boxes, float[kept] scores, int64[kept] classes)
<int64[1] zero = {0}, int64[1] two = {2}, int64[1] three = {3}, int64[1] four = {4}, int64[1] end = {22},
 int64[1] axis = {1}, int64 one = {1}, int64[1] most = {20}, float[1] overlap = {0.45}, float[1] least = {0.05}>
{
    coordinates = Slice(raw, zero, four, axis)
    candidates = Transpose<perm = [0, 2, 1]>(coordinates)
    confidences = Slice(raw, four, end, axis)
    selected = NonMaxSuppression<center_point_box = 1>(candidates, confidences, most, overlap, least)
    picture = Gather<axis = 1>(selected, zero)
    classes = Gather<axis = 1>(selected, one)
    anchor = Slice(selected, two, three, axis)
    place = Concat<axis = 1>(picture, anchor)
    boxes = GatherND(candidates, place)
    scores = GatherND(confidences, selected)
}
"""


def face_landmarks(cache: Path) -> Shipped:
    """MediaPipe's face mesh, [n, 192, 192, 3] to 468 points and the chance that a face is there, and stamps."""
    model = packaged_file(cache, MEDIAPIPE, "/face_landmark.tflite")
    data = cache / "shipped" / "face_landmark.npz"
    if not data.exists():
        pixels = read_stamps(SIDE).pixels[:PICTURES].astype(np.float32) / 255
        save_arrays(data, {"input_1": pixels})
    return Shipped(model, data)


def with_suppression(cache: Path) -> Shipped:
    """YOLOv8n that gives the boxes, scores and classes of what NonMaxSuppression keeps."""
    plain, path = nudenet(cache), cache / "shipped" / "yolov8n_nms.onnx"
    if not path.exists():
        raw = onnx.load(plain.model)
        tail = onnx.compose.add_prefix(onnx.parser.parse_model(TAIL), "nms/")
        tail.ir_version = raw.ir_version
        whole = onnx.compose.merge_models(raw, tail, [("output0", "nms/raw")])
        path.parent.mkdir(parents=True, exist_ok=True)
        onnx.save(whole, path)
    return Shipped(path, plain.calibration)


def half_precision(cache: Path) -> Shipped:
    """YOLOv8n in float16, inputs and outputs too; the converter writes its nodes unsorted."""
    plain, path, data = nudenet(cache), cache / "shipped" / "yolov8n_half.onnx", cache / "shipped" / "yolov8n_half.npz"
    if not path.exists():
        convert = require("onnxruntime.transformers.float16", "onnxruntime").convert_float_to_float16
        path.parent.mkdir(parents=True, exist_ok=True)
        onnx.save(convert(onnx.load(plain.model), keep_io_types=False), path)
    if not data.exists():
        with np.load(plain.calibration) as stored:
            save_arrays(data, {name: array.astype(np.float16) for name, array in stored.items()})
    return Shipped(path, data)
