"""The dashboards, as Grafana imports them."""

from monitor.exporters.decisions_board import DECISIONS
from monitor.exporters.fleet_board import FLEET
from monitor.exporters.grafana import Board, Json
from monitor.exporters.hardware_board import HARDWARE
from monitor.exporters.service_board import SERVICE_BOARD

BOARDS: tuple[Board, ...] = (FLEET, SERVICE_BOARD, DECISIONS, HARDWARE)


def dashboards() -> dict[str, Json]:
    """Give every dashboard by its uid."""
    return {board.uid: board.render() for board in BOARDS}
