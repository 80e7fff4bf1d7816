"""Middleware that WhaleFlux hands to vLLM; loaded by its path, never imported here."""
