{{/* Names, labels and images. `component` is a process of services.yaml, or pool-NAME. */}}

{{- define "penstock.fullname" -}}
{{- if contains .Chart.Name .Release.Name }}{{ .Release.Name | trunc 40 | trimSuffix "-" }}
{{- else }}{{ printf "%s-%s" .Release.Name .Chart.Name | trunc 40 | trimSuffix "-" }}{{ end }}
{{- end }}

{{- define "penstock.name" -}}
{{ include "penstock.fullname" .root }}-{{ .component }}
{{- end }}

{{- define "penstock.release" -}}
app.kubernetes.io/name: penstock
app.kubernetes.io/instance: {{ .root.Release.Name }}
{{- end }}

{{- define "penstock.selector" -}}
{{ include "penstock.release" . }}
app.kubernetes.io/component: {{ .component }}
{{- end }}

{{- define "penstock.labels" -}}
{{ include "penstock.selector" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ .root.Chart.Name }}-{{ .root.Chart.Version }}
{{- end }}

{{- define "penstock.metadata" -}}
name: {{ include "penstock.name" . }}
namespace: {{ .root.Release.Namespace }}
labels:
  {{- include "penstock.labels" . | nindent 2 }}
{{- end }}

{{- define "penstock.image" -}}
{{- $image := .root.Values.image }}
{{- $digest := get $image.digests .component }}
{{- if $digest }}{{ $image.registry }}/{{ .component }}@{{ $digest }}
{{- else }}{{ $image.registry }}/{{ .component }}:{{ $image.tag | default .root.Chart.AppVersion }}{{ end }}
{{- end }}

{{- define "penstock.pullSecrets" -}}
{{- with .Values.image.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{- end }}

{{/* What restricted pod security asks of pods and containers. */}}
{{- define "penstock.podSecurity" -}}
runAsNonRoot: true
runAsUser: {{ . }}
runAsGroup: {{ . }}
fsGroup: {{ . }}
fsGroupChangePolicy: OnRootMismatch
seccompProfile: {type: RuntimeDefault}
{{- end }}

{{- define "penstock.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
runAsNonRoot: true
capabilities: {drop: [ALL]}
seccompProfile: {type: RuntimeDefault}
{{- end }}

{{- define "penstock.spread" -}}
topologySpreadConstraints:
  {{- range list "topology.kubernetes.io/zone" "kubernetes.io/hostname" }}
  - maxSkew: 1
    topologyKey: {{ . }}
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels:
        {{- include "penstock.selector" $ | nindent 8 }}
  {{- end }}
{{- end }}

{{/* What is spoken on a port. The gateway's doors are in the clear, for what stands before them; services speak mTLS. */}}
{{- define "penstock.protocol" -}}
{{- if ne .port "grpc" }}http{{ else if and .root.Values.tls.enabled (not .doors) }}https{{ else }}kubernetes.io/h2c{{ end }}
{{- end }}
