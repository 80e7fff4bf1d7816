"""A real vLLM on CPUs under the control plane."""
