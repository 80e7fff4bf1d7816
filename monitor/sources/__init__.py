"""Where signals come from; each source answers with a `monitor.signals.Reading`."""
