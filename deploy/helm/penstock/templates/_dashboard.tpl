{{/* A Grafana dashboard, made of files/dashboards.yaml: panels two beside each other. */}}
{{- define "penstock.dashboard" -}}
uid: penstock-{{ .name }}
title: {{ .title | quote }}
tags: [penstock]
schemaVersion: 41
editable: true
refresh: 30s
time: {from: now-3h, to: now}
timezone: utc
templating:
  list:
    - {name: source, label: Prometheus, type: datasource, query: prometheus}
    - name: namespace
      label: Namespace
      type: query
      datasource: {type: prometheus, uid: "$source"}
      query: label_values(penstock_gateway_http_in_flight, namespace)
      refresh: 2
panels:
  {{- range $index, $panel := .panels }}
  - id: {{ add $index 1 }}
    type: timeseries
    title: {{ $panel.title | quote }}
    datasource: {type: prometheus, uid: "$source"}
    gridPos: {"h": 8, "w": 12, "x": {{ mul 12 (mod $index 2) }}, "y": {{ mul 8 (div $index 2) }}}
    fieldConfig: {defaults: {unit: {{ $panel.unit }}, min: 0}, overrides: []}
    options: {legend: {displayMode: list, placement: bottom}, tooltip: {mode: multi, sort: desc}}
    targets:
      {{- range $number, $query := $panel.queries }}
      - {refId: {{ printf "%c" (add 65 $number | int) }}, legendFormat: {{ $query.legend | quote }}, expr: {{ $query.expr | quote }}}
      {{- end }}
  {{- end }}
{{- end }}
