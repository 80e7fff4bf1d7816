"""Find incidents that show in many metrics at once, and name the metrics.

Fitted on calm history (`fit`), then asked once a sample (`Detector.seen`). It judges by two
questions: do the metrics still move together as they do in this regime, and has the system
been near this state before. It never learns from what it judges: `History` collects the next
baseline, and leaves out incidents and rollouts.
"""

from monitor.detectors.anomaly.baseline import Baseline, Metric, fit
from monitor.detectors.anomaly.detector import Contribution, Detector, Finding, Score, score_all
from monitor.detectors.anomaly.history import History
from monitor.detectors.anomaly.tail import Tail

__all__ = [
    "Baseline",
    "Contribution",
    "Detector",
    "Finding",
    "History",
    "Metric",
    "Score",
    "Tail",
    "fit",
    "score_all",
]
