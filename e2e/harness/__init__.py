"""The end-to-end cluster: real control plane, pods as processes.

`build` makes the binaries, `cluster` runs them, `node` runs pods. Tests use
these three and `wait`; nothing in the product imports this package.
"""
