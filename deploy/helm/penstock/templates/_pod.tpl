{{/* The parts of a service's pod. */}}

{{/* A probe of the table: HTTP, or gRPC health; under mTLS, which kubelet does not speak, by a program of the image. */}}
{{- define "penstock.probe" -}}
{{- if .probe.http -}}
httpGet: {path: {{ .probe.path | default "/" }}, port: {{ .probe.http }}}
{{- else if .root.Values.tls.enabled -}}
exec:
  command: [python3, -m, servicekit.healthcheck, "localhost:{{ index .process.ports .probe.grpc }}", --tls, {{ .table.containers.tls }}]
{{- else -}}
grpc: {port: {{ index .process.ports .probe.grpc }}}
{{- end }}
{{- end }}

{{- define "penstock.probes" -}}
{{- $ready := dict "root" .root "table" .table "process" .process "probe" .process.ready }}
{{- $live := dict "root" .root "table" .table "process" .process "probe" .process.live }}
startupProbe:
  {{- include "penstock.probe" $live | nindent 2 }}
  periodSeconds: 2
  timeoutSeconds: 3
  failureThreshold: 60
readinessProbe:
  {{- include "penstock.probe" $ready | nindent 2 }}
  periodSeconds: {{ if and .root.Values.tls.enabled .process.ready.grpc }}10{{ else }}5{{ end }}
  timeoutSeconds: 5
  failureThreshold: 3
livenessProbe:
  {{- include "penstock.probe" $live | nindent 2 }}
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: 6
{{- end }}

{{/* Volumes by what the process' settings name. `uses` is the text of all of them. */}}
{{- define "penstock.volumes" -}}
{{- $values := .root.Values }}
- name: tmp
  emptyDir: {sizeLimit: {{ $values.scratch.size }}}
- name: keys
  secret:
    secretName: {{ $values.identity.existingSecret }}
    defaultMode: 0440
    items:
      - {key: identity.pub.pem, path: identity.pub.pem}
      {{- if contains "/identity.pem" .uses }}
      - {key: identity.pem, path: identity.pem}
      {{- end }}
{{- if $values.tls.enabled }}
- name: tls
  secret:
    secretName: {{ include "penstock.tlsSecret" . }}
    defaultMode: 0440
{{- end }}
{{- range $kind := list "catalogue" "configuration" }}
{{- if contains (index $.table.containers $kind) $.uses }}
- name: {{ $kind }}
  configMap:
    name: {{ include "penstock.name" (dict "root" $.root "component" $kind) }}
{{- end }}
{{- end }}
{{- if and .kept (index $values.services .component).storage.ephemeral }}
- name: data
  emptyDir: {sizeLimit: {{ (index $values.services .component).storage.size }}}
{{- end }}
{{- end }}

{{- define "penstock.mounts" -}}
- {name: tmp, mountPath: /tmp}
- {name: keys, mountPath: {{ .table.containers.keys }}, readOnly: true}
{{- if .root.Values.tls.enabled }}
- {name: tls, mountPath: {{ .table.containers.tls }}, readOnly: true}
{{- end }}
{{- range $kind := list "catalogue" "configuration" }}
{{- if contains (index $.table.containers $kind) $.uses }}
- {name: {{ $kind }}, mountPath: {{ index $.table.containers $kind | dir }}, readOnly: true}
{{- end }}
{{- end }}
{{- if .kept }}
- {name: data, mountPath: {{ .table.containers.data }}}
{{- end }}
{{- end }}

{{- define "penstock.tlsSecret" -}}
{{- .root.Values.tls.existingSecret | default (printf "%s-tls" (include "penstock.name" .)) }}
{{- end }}

{{/* The whole template of a service's pods. */}}
{{- define "penstock.pod" -}}
{{- $settings := index .root.Values.services .component }}
metadata:
  labels:
    {{- include "penstock.labels" . | nindent 4 }}
  annotations:
    kubectl.kubernetes.io/default-container: {{ .component }}
    {{- if contains .table.containers.catalogue .uses }}
    checksum/catalogue: {{ include "penstock.catalogue" .root | sha256sum }}
    {{- end }}
spec:
  serviceAccountName: {{ include "penstock.name" . }}
  automountServiceAccountToken: {{ eq .component "inference" }}
  enableServiceLinks: false
  terminationGracePeriodSeconds: {{ add .root.Values.drain.seconds .root.Values.drain.preStopSeconds 10 }}
  securityContext:
    {{- include "penstock.podSecurity" .root.Values.podSecurity.user | nindent 4 }}
  {{- include "penstock.pullSecrets" .root | nindent 2 }}
  {{- with $settings.priorityClassName }}
  priorityClassName: {{ . }}
  {{- end }}
  {{- with $settings.nodeSelector }}
  nodeSelector:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with $settings.tolerations }}
  tolerations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- include "penstock.spread" . | nindent 2 }}
  containers:
    - name: {{ .component }}
      image: {{ include "penstock.image" . }}
      imagePullPolicy: {{ .root.Values.image.pullPolicy }}
      securityContext:
        {{- include "penstock.containerSecurity" .root | nindent 8 }}
      env:
        {{- include "penstock.environment" . | nindent 8 }}
      ports:
        {{- range $port, $number := .process.ports }}
        - {name: {{ $port }}, containerPort: {{ $number }}, protocol: TCP}
        {{- end }}
      {{- include "penstock.probes" . | nindent 6 }}
      lifecycle:
        preStop:
          sleep: {seconds: {{ .root.Values.drain.preStopSeconds }}}
      resources:
        {{- toYaml $settings.resources | nindent 8 }}
      volumeMounts:
        {{- include "penstock.mounts" . | nindent 8 }}
  volumes:
    {{- include "penstock.volumes" . | nindent 4 }}
{{- end }}
