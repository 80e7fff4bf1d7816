"""What other monitoring systems load: Grafana dashboards and Prometheus rules, made as code.

Plain values only: nothing here reads a metric or a clock. The command `whaleflux dashboards`
writes them; the chart ships them.
"""

from monitor.exporters.dashboards import dashboards
from monitor.exporters.rules import RUNBOOKS, rules

__all__ = ["RUNBOOKS", "dashboards", "rules"]
