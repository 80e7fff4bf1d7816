//go:build tools

// Package helm pins the Helm command of the end-to-end cluster.
package helm

import _ "helm.sh/helm/v4/cmd/helm"
