"""Judge scaling policies over a trace, in simulated time, at step fidelity."""
