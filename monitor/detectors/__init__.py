"""Detectors: values in, findings out; what to do about them is the controller's."""
