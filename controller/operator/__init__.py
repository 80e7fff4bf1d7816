"""The operator: watches LLMServices and runs a loop for each on the Kubernetes runtime."""
