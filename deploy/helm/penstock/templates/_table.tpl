{{/* Reads services.yaml, the copy of deploy/services.yaml, and fills its placeholders in. */}}

{{- define "penstock.table" -}}
{{ .Files.Get "services.yaml" }}
{{- end }}

{{/* Placeholders and what they mean here, as YAML. `component` is the process that asks. */}}
{{- define "penstock.placeholders" -}}
{{- $root := .root }}
{{- range $name, $path := .table.containers }}
{{ printf "{%s}" $name | quote }}: {{ $path | quote }}
{{- end }}
"{host}": "0.0.0.0"
{{- range $name, $process := .table.processes }}
{{- range $port, $number := $process.ports }}
{{ printf "{%s.%s}" $name $port | quote }}: "{{ include "penstock.name" (dict "root" $root "component" $name) }}:{{ $number }}"
{{ printf "{%s.%s:port}" $name $port | quote }}: {{ $number | quote }}
{{- if eq $name $.component }}
{{ printf "{self.%s:port}" $port | quote }}: {{ $number | quote }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}

{{- define "penstock.filled" -}}
{{- $text := .text }}
{{- range $from, $to := .placeholders }}{{ if contains "{" $text }}{{ $text = replace $from $to $text }}{{ end }}{{ end }}
{{- $text | replace "{{" "{" | replace "}}" "}" }}
{{- end }}

{{/* Whether a process keeps files: "true", or nothing. */}}
{{- define "penstock.kept" -}}
{{- if or (eq (.process.keeps | default "") "always") (and (eq (.process.keeps | default "") "embedded") (not .root.Values.database.existingSecret)) }}true{{ end }}
{{- end }}

{{/* The settings of a service as YAML of names and values; what the pools' servers are is in the catalogue. */}}
{{- define "penstock.settings" -}}
{{- $root := .root }}
{{- $table := .table }}
{{- $prefix := .component | replace "-" "_" | upper }}
{{- $placeholders := include "penstock.placeholders" . | fromYaml }}
{{- $told := deepCopy $table.shared }}
{{- if $root.Values.tls.enabled }}{{ $told = merge $told $table.mtls }}{{ end }}
{{- range .process.calls }}
{{- if (index $table.processes .).module }}
{{- $_ := set $told (printf "%s_ADDRESS" (. | replace "-" "_" | upper)) (printf "{%s.grpc}" .) }}
{{- end }}
{{- end }}
{{- with $root.Values.telemetry.otlpEndpoint }}{{ $_ := set $told "OTLP_ENDPOINT" . }}{{ end }}
{{- $_ := set $told "TRACE_RATIO" (toString $root.Values.telemetry.traceRatio) }}
{{- $_ := set $told "LOG_LEVEL" $root.Values.telemetry.logLevel }}
{{- $_ := set $told "DRAIN_S" (toString $root.Values.drain.seconds) }}
{{- $environment := dict }}
{{- range $key, $value := $told }}{{ $_ := set $environment (printf "%s_%s" $prefix $key) $value }}{{ end }}
{{- range $key, $value := .process.environment }}
{{- if not (contains "{triton." $value) }}{{ $_ := set $environment $key $value }}{{ end }}
{{- end }}
{{- range $key, $value := (index $root.Values.services .component).environment }}{{ $_ := set $environment $key (toString $value) }}{{ end }}
{{- range $key, $value := $environment }}
{{ $key }}: {{ include "penstock.filled" (dict "text" $value "placeholders" $placeholders) | quote }}
{{- end }}
{{- end }}

{{/* The settings of a service (`uses`, as the template above makes them) as a container's environment; those with a password come from secrets. */}}
{{- define "penstock.environment" -}}
{{- range $key, $value := .uses | fromYaml }}
- name: {{ $key }}
  value: {{ $value | quote }}
{{- end }}
{{- $prefix := .component | replace "-" "_" | upper }}
{{- range $store, $variable := .process.stores }}
{{- $given := index $.root.Values $store }}
{{- if $given.existingSecret }}
- name: {{ $prefix }}_{{ $variable }}
  valueFrom:
    secretKeyRef:
      name: {{ $given.existingSecret }}
      key: {{ index $given.keys $.component }}
{{- end }}
{{- end }}
{{- range (index .root.Values.services .component).secretEnvironment }}
- name: {{ .variable }}
  valueFrom:
    secretKeyRef:
      name: {{ .secret }}
      key: {{ .key }}
{{- end }}
{{- end }}
