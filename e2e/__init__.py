"""End-to-end tests: WhaleFlux against a real Kubernetes on one machine."""
