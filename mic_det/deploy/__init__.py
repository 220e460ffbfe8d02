"""Detectors outside of PyTorch: ONNX and TorchScript files, a predictor and a web page that need neither PyTorch nor
Detectron2. ``onnx_predictor.py``, ``resize.py`` and ``drawing.py`` import only numpy, OpenCV and onnxruntime."""
