from .mic import MIC, MICRCNN

__all__ = ["MIC", "MICRCNN"]
