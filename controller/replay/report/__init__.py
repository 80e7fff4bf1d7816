"""What policies made of a trace, told to people: sentences, and one HTML file.

Called by `whaleflux replay`. It replays and judges nothing: all it shows is in the outcomes.
"""

from controller.replay.report.page import as_html
from controller.replay.report.told import Told, terms_said, verdict

__all__ = ["Told", "as_html", "terms_said", "verdict"]
