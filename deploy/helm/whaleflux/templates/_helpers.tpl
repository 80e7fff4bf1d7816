{{- define "whaleflux.name" -}}
{{- printf "%s-operator" .Release.Name | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{/* Of what has no namespace: two releases of one name may share a cluster. */}}
{{- define "whaleflux.clusterName" -}}
{{ .Release.Namespace }}:{{ include "whaleflux.name" . }}
{{- end -}}

{{- define "whaleflux.selector" -}}
app.kubernetes.io/name: whaleflux
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: operator
{{- end -}}

{{- define "whaleflux.labels" -}}
{{ include "whaleflux.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end -}}

{{- define "whaleflux.image" -}}
{{- with .Values.image -}}
{{ .repository }}{{ if .digest }}@{{ .digest }}{{ else }}:{{ .tag | default $.Chart.AppVersion }}{{ end }}
{{- end -}}
{{- end -}}

{{- define "whaleflux.release" -}}
{{ .Release.Namespace }}/{{ .Release.Name }}
{{- end -}}

{{/* The release that holds an object, as Helm marks it. */}}
{{- define "whaleflux.holder" -}}
{{- $notes := .metadata.annotations | default dict -}}
{{ get $notes "meta.helm.sh/release-namespace" }}/{{ get $notes "meta.helm.sh/release-name" }}
{{- end -}}

{{/* The rules of a Role or ClusterRole, alike for one namespace and for all. */}}
{{- define "whaleflux.rules" -}}
- apiGroups: [serving.whaleflux.io]
  resources: [llmservices, engineprofiles]
  verbs: [list, watch]
- apiGroups: [serving.whaleflux.io]
  resources: [llmservices/status]
  verbs: [patch]
- apiGroups: [serving.whaleflux.io]
  resources: [llmservices/finalizers]
  verbs: [update]   # to own Pods and routers with blockOwnerDeletion, where that is enforced
- apiGroups: [""]
  resources: [pods]
  verbs: [get, list, watch, create, patch, delete]   # get: routers are granted it
- apiGroups: [""]
  resources: [services]
  verbs: [list, watch, create, patch, delete]
- apiGroups: [apps]
  resources: [deployments]
  verbs: [list, watch, create, patch, delete]
- apiGroups: [""]
  resources: [serviceaccounts]
  verbs: [create, patch, delete]
- apiGroups: [rbac.authorization.k8s.io]
  resources: [roles, rolebindings]   # a router may read Pods of its namespace; no more
  verbs: [create, patch, delete]
- apiGroups: [policy]
  resources: [poddisruptionbudgets]
  verbs: [create, patch, delete]
- apiGroups: [networking.k8s.io]
  resources: [networkpolicies]
  verbs: [create, patch]
- apiGroups: [resource.k8s.io]
  resources: [resourceclaimtemplates]
  verbs: [create, patch]
- apiGroups: [inference.networking.k8s.io]
  resources: [inferencepools]
  verbs: [create, patch, delete]
- apiGroups: [events.k8s.io]
  resources: [events]
  verbs: [create]
{{- end -}}
