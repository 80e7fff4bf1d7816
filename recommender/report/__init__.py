"""A recommendation as one HTML file that needs nothing else: the answer, then the reasons.

Called by `whaleflux plan`, never in the loop. It searches and decides nothing: all it shows is in
a `Recommendation` and its `Explanation`, but where a runner-up's time goes.
"""

from recommender.report.page import as_html

__all__ = ["as_html"]
