"""A detector as an HTTP server: FastAPI pages, and batches made of what comes at the same time. Knows no Ray."""

from detcore.serving.app import create_app
from detcore.serving.detector import ServedDetector
from detcore.serving.metrics import ServingMetrics
from detcore.serving.settings import ServingSettings, sha256_of

__all__ = ["ServedDetector", "ServingMetrics", "ServingSettings", "create_app", "sha256_of"]
