//go:build tools

// Package kwok pins the fake-node command of the end-to-end cluster.
package kwok

import _ "sigs.k8s.io/kwok/cmd/kwok"
