"""Where a step cost comes from when it is not computed from a data sheet."""
