"""A detector from a .onnx file as a function of one image. Neither PyTorch nor Detectron2 is imported here."""

import json
import os

import cv2
import numpy as np

from ..errors import CheckpointError, ConfigError, DataError
from ..inference.detections import Detections
from .resize import resize_bilinear, resized_shape

METADATA = "mic_det"  # key of the file's metadata
FORMAT = 1  # of the metadata and of the graph's inputs and outputs


class FilePredictor:
    """A file of ``mic-det export`` as a function of one image. It predicts what :class:`mic_det.Predictor` does.

    Attributes:
        has_boxes, has_label_maps (bool): what the model predicts.
        classes (list[(int, str)]): category id and name of each class of boxes.
        label_names (list[str]): of the labels 0, 1, ... of label maps.
        metadata (dict): all that the file says about the model.
    """

    def __init__(self, metadata, file, score_threshold):
        """
        Args:
            metadata (dict): that of ``file`` (path).
            score_threshold (float): least score of a box.

        Raises:
            ConfigError: where the file was exported with a higher threshold.
        """
        self.metadata, self.score_threshold = metadata, score_threshold
        self.has_boxes, self.has_label_maps = "boxes" in metadata["predicts"], "pixels" in metadata["predicts"]
        self.classes = [(i, name) for i, name in metadata["classes"]]
        self.label_names = metadata["label_map_classes"]
        least = metadata["score_threshold"]
        if self.has_boxes and score_threshold < least:
            raise ConfigError(
                f"the least score is {score_threshold}, but {file} was exported with {least}: use that or more, or "
                f"export again with {metadata['score_threshold_key']} {score_threshold}."
            )

    def __call__(self, rgb):
        """
        Args:
            rgb (ndarray): (H, W, 3) uint8.

        Returns:
            dict of what the model predicts. ``"instances"``: :class:`Detections`, sorted by descending score.
            ``"label_map"``: (H, W) int64, the most probable class of each pixel.

        Raises:
            DataError: where the model cannot take an image of this size.
        """
        found, result = list(self.run(*self.prepare(rgb))), {}
        if self.has_boxes:
            boxes, scores, classes = found[:3]
            keep = scores >= self.score_threshold
            result["instances"] = Detections(boxes[keep], scores[keep], classes[keep])
        if self.has_label_maps:
            result["label_map"] = found[-1]
        return result

    def run(self, image, size):
        """The graph's outputs for its inputs, as arrays."""
        raise NotImplementedError

    def prepare(self, rgb):
        """The graph's inputs for an image: it is resized as in training's evaluation, the rest is in the graph.

        Raises:
            DataError: where the model cannot take an image of this size.
        """
        height, width = rgb.shape[:2]
        rule, fixed = self.metadata["resize"], self.metadata["fixed_size"]
        size = resized_shape(height, width, rule["shorter"], rule["longer"])
        if min(size) < 1:
            raise DataError(f"is {width} x {height} pixels, which are resized to {size[1]} x {size[0]}: pad it")
        if fixed and tuple(fixed) != size:
            raise DataError(
                f"is {width} x {height} pixels, which are resized to {size[1]} x {size[0]}, but the model was exported "
                f"only for {fixed[1]} x {fixed[0]}: export it without --size"
            )
        return resize_bilinear(rgb, *size), np.array([height, width], np.int64)

    @staticmethod
    def read(path):
        """An image file as RGB (H, W, 3) uint8, turned upright by its EXIF tag.

        Raises:
            DataError: where it cannot be read, or has pixels of more than 8 bits (they would be cut off).
        """
        data = np.fromfile(path, np.uint8)
        image = cv2.imdecode(data, cv2.IMREAD_ANYDEPTH | cv2.IMREAD_COLOR) if len(data) else None
        if image is None:
            raise DataError("cannot be read: OpenCV does not know its format")
        if image.dtype != np.uint8:
            raise DataError(f"has pixels that are not of 8 bits but {image.dtype}: scale them, and save it as 8 bits")
        return np.ascontiguousarray(image[:, :, ::-1])


class OnnxPredictor(FilePredictor):
    """A .onnx file, run by onnxruntime on the CPU."""

    def __init__(self, file, score_threshold=0.5, threads=None):
        """
        Args:
            file (path): a .onnx file of ``mic-det export``.
            score_threshold (float): least score of a box.
            threads (int): for onnxruntime; None = its own choice.

        Raises:
            ConfigError: where onnxruntime is missing, or the file was exported with a higher threshold.
            CheckpointError: where the file cannot be used.
        """
        self.session = _session(file, threads)
        super().__init__(_metadata(file, self.session), file, score_threshold)

    def run(self, image, size):
        return self.session.run(None, {"image": image, "size": size})


def _session(file, threads):
    try:
        import onnxruntime
    except ImportError as e:
        raise ConfigError(f"{file}: install onnxruntime to use it: pip install onnxruntime.") from e
    if not os.path.isfile(file):
        raise CheckpointError(f"{file} is missing: name a file that `mic-det export` wrote.")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # only errors, no remarks about the graph
    if threads:
        options.intra_op_num_threads = threads
    try:
        return onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    except Exception as e:  # onnxruntime has a type of its own for each kind of broken file
        raise CheckpointError(f"{file} cannot be used: {' '.join(str(e).split())[:300]}") from e


def _metadata(file, session):
    text = session.get_modelmeta().custom_metadata_map.get(METADATA)
    if text is None:
        raise CheckpointError(f"{file} was not written by `mic-det export`: it has no classes and sizes.")
    metadata = json.loads(text)
    if metadata["format"] != FORMAT:
        raise CheckpointError(
            f"{file} has format {metadata['format']}, and this mic_det reads {FORMAT}: export it again."
        )
    return metadata
