{{/* The catalogue of the inference service: the models of the values on the servers that the pools are. */}}
{{- define "penstock.catalogue" -}}
{{- $root := . }}
{{- $table := include "penstock.table" . | fromYaml }}
{{- $servers := dict }}
{{- range .Values.pools }}
{{- $service := include "penstock.name" (dict "root" $root "component" (printf "pool-%s" .name)) }}
{{- $server := dict "kubernetes" (dict "service" $service "namespace" $root.Release.Namespace "port" $table.processes.triton.ports.grpc) }}
{{- with .residency }}{{ $_ := set $server "residency" . }}{{ end }}
{{- $_ := set $servers .name $server }}
{{- end }}
{{- $catalogue := dict "servers" $servers "models" .Values.catalogue.models }}
{{- with .Values.catalogue.upstreams }}{{ $_ := set $catalogue "upstreams" . }}{{ end }}
{{- toYaml $catalogue }}
{{- end }}
