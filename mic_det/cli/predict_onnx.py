"""A .onnx file as the model of ``mic-det predict``: neither PyTorch nor Detectron2 is imported."""

from ..deploy.drawing import draw_boxes
from ..deploy.onnx_predictor import OnnxPredictor


class OnnxModel:
    """As :class:`mic_det.cli.predict_checkpoint.CheckpointModel`."""

    draw_boxes = staticmethod(draw_boxes)
    skeleton = None  # an exported model has no keypoints

    def __init__(self, args):
        self.files = [args.weights]
        self.predictor = OnnxPredictor(args.weights, args.confidence_threshold)
        self.kinds, self.name = self.predictor.metadata["predicts"], self.predictor.metadata["model"]
        self.classes, self.label_names = self.predictor.classes, self.predictor.label_names
        self.label_count = len(self.label_names)
        self.read = self.predictor.read

    def load(self):
        """Nothing is left to do: the names that must be known before are in the file."""

    def __call__(self, rgb):
        return self.predictor(rgb)
