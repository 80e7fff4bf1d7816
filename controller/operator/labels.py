"""The labels that hold everything together."""

from controller.api import GROUP

SERVICE = f"{GROUP}/service"
ROLE = f"{GROUP}/role"
TEMPLATE = f"{GROUP}/template"
MANAGED_BY = "app.kubernetes.io/managed-by"
MANAGER = "whaleflux"

ROLE_STANDBY = "standby"
ROLE_SERVING = "serving"
ROLE_DRAINING = "draining"
ROLE_ROUTER = "router"


def common(service: str) -> dict[str, str]:
    """Labels of every object of a service."""
    return {
        MANAGED_BY: MANAGER,
        SERVICE: service,
        "app.kubernetes.io/part-of": "whaleflux",
        "app.kubernetes.io/instance": service,
    }


def selector(service: str, role: str) -> str:
    """Label selector of a service's pods in one role."""
    return f"{SERVICE}={service},{ROLE}={role}"
