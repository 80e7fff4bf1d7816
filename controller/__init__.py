"""The controller: observe, detect, decide and act, on any runtime; the command line."""
