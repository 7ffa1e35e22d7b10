{{/* How a pool grows and shrinks: on the replicas that the inference service says are needed, and on its queue wait. */}}

{{/* The catalogue's models that run on a pool, as a JSON list. */}}
{{- define "penstock.poolModels" -}}
{{- $names := list }}
{{- range .root.Values.catalogue.models }}
{{- if and .triton (eq .triton.server $.pool.name) }}{{ $names = append $names .name }}{{ end }}
{{- end }}
{{- toJson $names }}
{{- end }}

{{- define "penstock.poolSelector" -}}
{{- $patterns := list }}
{{- range include "penstock.poolModels" . | fromJsonArray }}{{ $patterns = append $patterns (regexQuoteMeta . | replace "\\" "\\\\") }}{{ end -}}
namespace={{ .root.Release.Namespace | quote }},model=~{{ printf "\"%s\"" (join "|" $patterns) }}
{{- end }}

{{- define "penstock.poolScaling" -}}
{{- $scaling := .pool.autoscaling }}
{{- $labels := include "penstock.poolSelector" . }}
---
{{- if eq .root.Values.scaling.engine "keda" }}
apiVersion: keda.sh/v1alpha1
kind: ScaledObject
metadata:
  {{- include "penstock.metadata" . | nindent 2 }}
spec:
  scaleTargetRef: {name: {{ include "penstock.name" . }}}
  minReplicaCount: {{ $scaling.minReplicas }}
  maxReplicaCount: {{ $scaling.maxReplicas }}
  pollingInterval: 15
  # Longer than a cold start, or a pod that is still loading would be counted as one too many.
  cooldownPeriod: {{ max (int $scaling.cooldownSeconds) (add .pool.startupSeconds 60) }}
  # Without the metrics it stays as large as it is, and never below this.
  fallback: {failureThreshold: 3, replicas: {{ $scaling.fallbackReplicas }}, behavior: currentReplicasIfHigher}
  advanced:
    horizontalPodAutoscalerConfig:
      behavior:
        scaleUp: {stabilizationWindowSeconds: 0, policies: [{type: Percent, value: 100, periodSeconds: 60}]}
        scaleDown: {stabilizationWindowSeconds: 300, policies: [{type: Pods, value: 1, periodSeconds: 120}]}
  triggers:
    - type: prometheus
      name: desired-replicas
      metricType: AverageValue
      metadata:
        serverAddress: {{ .root.Values.scaling.prometheusAddress }}
        threshold: "1"
        activationThreshold: "0"
        query: max(sum by (model) (max_over_time(penstock_inference_desired_replicas{ {{- $labels -}} }[2m])))
    - type: prometheus
      name: queue-wait
      metricType: AverageValue
      metadata:
        serverAddress: {{ .root.Values.scaling.prometheusAddress }}
        threshold: "1"
        activationThreshold: "0"
        # At most twice what runs, in the proportion in which the wait is too long.
        query: >-
          clamp_max(max(penstock_inference_queue_wait_p95_seconds{ {{- $labels -}} }) / {{ $scaling.queueWaitSeconds }}, 2)
          * max(sum by (model) (penstock_inference_replica_in_rotation{ {{- $labels -}} }))
    # Wakes a pool of no replicas; never asks for a second one.
    - type: prometheus
      name: arrivals
      metricType: AverageValue
      metadata:
        serverAddress: {{ .root.Values.scaling.prometheusAddress }}
        threshold: "1000000"
        activationThreshold: "0"
        query: sum(rate(penstock_inference_arrivals_total{ {{- $labels -}} }[2m]))
{{- else }}
apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
metadata:
  {{- include "penstock.metadata" . | nindent 2 }}
spec:
  scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: {{ include "penstock.name" . }}}
  minReplicas: {{ $scaling.minReplicas }}
  maxReplicas: {{ $scaling.maxReplicas }}
  behavior:
    scaleDown: {stabilizationWindowSeconds: 300, policies: [{type: Pods, value: 1, periodSeconds: 120}]}
  metrics:
    {{- range include "penstock.poolModels" . | fromJsonArray }}
    - type: External
      external:
        metric: {name: penstock_inference_desired_replicas, selector: {matchLabels: {model: {{ . | quote }}}}}
        target: {type: AverageValue, averageValue: "1"}
    {{- end }}
{{- end }}
{{- end }}
