{{/* The pods of a pool: Triton servers with the same models on the same kind of machine. */}}

{{/* Mebibytes of a quantity such as 512Mi or 4Gi. */}}
{{- define "penstock.mebibytes" -}}
{{- $number := regexFind "^[0-9]+" (toString .) | int }}
{{- if hasSuffix "Ti" (toString .) }}{{ mul $number 1048576 }}{{ else if hasSuffix "Gi" (toString .) }}{{ mul $number 1024 }}{{ else }}{{ $number }}{{ end }}
{{- end }}

{{- define "penstock.poolImage" -}}
{{- $image := .pool.image | default dict }}
{{- if eq .pool.engine "bundled" }}{{ include "penstock.image" (dict "root" .root "component" "triton") }}
{{- else if $image.digest }}{{ $image.repository }}@{{ $image.digest }}
{{- else }}{{ $image.repository }}:{{ $image.tag }}{{ end }}
{{- end }}

{{/* The command as YAML: what the table tells the bundled server, whose image begins with tini and Python, or tritonserver's own. */}}
{{- define "penstock.poolCommand" -}}
{{- $ports := .process.ports }}
{{- $command := list }}
{{- if eq .pool.engine "bundled" }}
{{- $placeholders := include "penstock.placeholders" (dict "root" .root "table" .table "component" "triton") | fromYaml }}
{{- range rest .process.command }}{{ $command = append $command (include "penstock.filled" (dict "text" . "placeholders" $placeholders)) }}{{ end }}
{{- if .pool.models }}{{ $command = concat $command (list "--load") .pool.models }}{{ end }}
{{- else }}
{{- $command = list "tritonserver" (printf "--model-repository=%s" .table.containers.models) "--model-control-mode=explicit" }}
{{- range .pool.models }}{{ $command = append $command (printf "--load-model=%s" .) }}{{ end }}
{{- range $protocol, $port := $ports }}{{ $command = append $command (printf "--%s-port=%d" $protocol (int $port)) }}{{ end }}
{{- $command = append $command (printf "--exit-timeout-secs=%d" (int .pool.exitTimeoutSeconds)) }}
{{- $command = append $command (printf "--strict-readiness=%t" (not .pool.residency)) }}
{{- end }}
{{ if eq .pool.engine "bundled" }}args{{ else }}command{{ end }}: {{ concat $command .pool.arguments | toJson }}
{{- end }}

{{- define "penstock.poolStore" -}}
{{- $store := .pool.store }}
{{- if eq $store.type "hostPath" }}
hostPath: {path: {{ $store.path }}, type: Directory}
{{- else if eq $store.type "oci" }}
image: {reference: {{ $store.reference }}, pullPolicy: IfNotPresent}
{{- else if or (eq $store.type "pvc") $store.claim }}
persistentVolumeClaim: {claimName: {{ $store.claim | default (printf "%s-models" (include "penstock.name" .)) }}{{ if eq $store.type "pvc" }}, readOnly: true{{ end }}}
{{- else }}
emptyDir: {sizeLimit: {{ $store.size }}}
{{- end }}
{{- end }}

{{/* What runs before the server: fetch the models once, then see that they are there. */}}
{{- define "penstock.poolPreparation" -}}
{{- $store := .pool.store }}
{{- if eq $store.type "s3" }}
- name: fetch-models
  image: {{ $store.image }}
  imagePullPolicy: IfNotPresent
  securityContext:
    {{- include "penstock.containerSecurity" .root | nindent 4 }}
  command: [sh, /scripts/fetch_models.sh, {{ $store.uri | quote }}, {{ .table.containers.models }}]
  env:
    - {name: HOME, value: /tmp}
    - {name: RCLONE_S3_PROVIDER, value: {{ $store.provider | default "Other" | quote }}}
    - {name: RCLONE_S3_ENDPOINT, value: {{ $store.endpoint | default "" | quote }}}
    - {name: RCLONE_S3_ENV_AUTH, value: "true"}
  {{- with $store.existingSecret }}
  envFrom:
    - secretRef: {name: {{ . }}}
  {{- end }}
  resources: {requests: {cpu: 500m, memory: 256Mi}, limits: {cpu: "2", memory: 1Gi}}
  volumeMounts:
    - {name: scripts, mountPath: /scripts, readOnly: true}
    - {name: models, mountPath: {{ .table.containers.models }}}
    - {name: tmp, mountPath: /tmp}
{{- end }}
{{- if and (ne $store.type "image") .pool.models }}
- name: check-models
  image: {{ include "penstock.poolImage" . }}
  imagePullPolicy: IfNotPresent
  securityContext:
    {{- include "penstock.containerSecurity" .root | nindent 4 }}
  command: {{ concat (list "python3" "/scripts/check_models.py" .table.containers.models) .pool.models | toJson }}
  resources: {requests: {cpu: 10m, memory: 32Mi}, limits: {cpu: 500m, memory: 128Mi}}
  volumeMounts:
    - {name: scripts, mountPath: /scripts, readOnly: true}
    - {name: models, mountPath: {{ .table.containers.models }}, readOnly: true}
{{- end }}
{{- end }}

{{- define "penstock.poolPlacement" -}}
{{- $pool := .pool }}
{{- with $pool.accelerator }}
tolerations:
  - {key: nvidia.com/gpu, operator: Exists, effect: NoSchedule}
  {{- if $pool.spot }}
  {{- range list "cloud.google.com/gke-spot" "kubernetes.azure.com/scalesetpriority" "karpenter.sh/capacity-type" }}
  - {key: {{ . }}, operator: Exists, effect: NoSchedule}
  {{- end }}
  {{- end }}
  {{- with $pool.tolerations }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- with .products }}
affinity:
  nodeAffinity:
    requiredDuringSchedulingIgnoredDuringExecution:
      nodeSelectorTerms:
        - matchExpressions:
            - {key: nvidia.com/gpu.product, operator: In, values: {{ toJson . }}}
{{- end }}
{{- else }}
{{- with $pool.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}
{{- with $pool.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $pool.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with $pool.runtimeClassName }}
runtimeClassName: {{ . }}
{{- end }}
{{- end }}

{{- define "penstock.poolResources" -}}
{{- $resources := deepCopy .pool.resources }}
{{- with .pool.accelerator }}
{{- range list "requests" "limits" }}{{ $_ := set (index $resources .) $.pool.accelerator.resource $.pool.accelerator.count }}{{ end }}
{{- end }}
{{- toYaml $resources }}
{{- end }}

{{- define "penstock.poolContainer" -}}
- name: triton
  image: {{ include "penstock.poolImage" . }}
  imagePullPolicy: {{ .root.Values.image.pullPolicy }}
  securityContext:
    {{- include "penstock.containerSecurity" .root | nindent 4 }}
  {{- include "penstock.poolCommand" . | nindent 2 }}
  env:
    - {name: HOME, value: /tmp}
    - {name: ORT_DISABLE_TELEMETRY, value: "1"}
    {{- range $name, $value := .pool.environment }}
    - {name: {{ $name }}, value: {{ toString $value | quote }}}
    {{- end }}
  ports:
    {{- range $port, $number := .process.ports }}
    - {name: {{ $port }}, containerPort: {{ $number }}, protocol: TCP}
    {{- end }}
  startupProbe:
    httpGet: {path: {{ .process.live.path }}, port: http}
    periodSeconds: 10
    timeoutSeconds: 5
    failureThreshold: {{ div (add .pool.startupSeconds 9) 10 }}
  readinessProbe:
    exec:
      command: {{ concat (list "python3" "/scripts/golden_probe.py" "--port" (toString .process.ports.http) "--repository" .table.containers.models) .pool.models | toJson }}
    periodSeconds: 10
    timeoutSeconds: 10
    failureThreshold: 2
  livenessProbe:
    httpGet: {path: {{ .process.live.path }}, port: http}
    periodSeconds: 10
    timeoutSeconds: 5
    failureThreshold: 6
  lifecycle:
    preStop:
      sleep: {seconds: {{ .root.Values.drain.preStopSeconds }}}
  resources:
    {{- include "penstock.poolResources" . | nindent 4 }}
  volumeMounts:
    - {name: tmp, mountPath: /tmp}
    - {name: cache, mountPath: /var/cache/triton}
    - {name: shm, mountPath: /dev/shm}
    {{- if eq .pool.engine "bundled" }}
    - {name: backends, mountPath: {{ .table.containers.toolchain }}/env/triton/backends}
    {{- end }}
    - {name: scripts, mountPath: /scripts, readOnly: true}
    {{- if ne .pool.store.type "image" }}
    - {name: models, mountPath: {{ .table.containers.models }}, readOnly: true}
    {{- end }}
{{- end }}

{{/* No label or annotation changes with the chart's version: an upgrade alone is no reason to load large models anew. */}}
{{- define "penstock.poolPod" -}}
metadata:
  labels:
    {{- include "penstock.selector" . | nindent 4 }}
    penstock/role: triton
  annotations:
    kubectl.kubernetes.io/default-container: triton
spec:
  serviceAccountName: {{ include "penstock.name" (dict "root" .root "component" "triton") }}
  automountServiceAccountToken: false
  enableServiceLinks: false
  terminationGracePeriodSeconds: {{ add .root.Values.drain.preStopSeconds .pool.exitTimeoutSeconds 10 }}
  securityContext:
    {{- include "penstock.podSecurity" .pool.user | nindent 4 }}
  {{- include "penstock.pullSecrets" .root | nindent 2 }}
  {{- include "penstock.poolPlacement" . | nindent 2 }}
  {{- include "penstock.spread" . | nindent 2 }}
  {{- with include "penstock.poolPreparation" . }}
  initContainers:
    {{- . | nindent 4 }}
  {{- end }}
  containers:
    {{- include "penstock.poolContainer" . | nindent 4 }}
  volumes:
    - name: tmp
      emptyDir: {sizeLimit: {{ .root.Values.scratch.cacheSize }}}
    - name: cache
      emptyDir: {sizeLimit: {{ .root.Values.scratch.cacheSize }}}
    - name: shm
      emptyDir: {medium: Memory, sizeLimit: {{ .pool.sharedMemory }}}
    {{- if eq .pool.engine "bundled" }}
    # Its launcher puts the Python backend here: Triton changes the mode of a file of it at each start.
    - name: backends
      emptyDir: {sizeLimit: 64Mi}
    {{- end }}
    - name: scripts
      configMap:
        name: {{ include "penstock.name" (dict "root" .root "component" "scripts") }}
    {{- if ne .pool.store.type "image" }}
    - name: models
      {{- include "penstock.poolStore" . | nindent 6 }}
    {{- end }}
{{- end }}

{{/* A pool with the defaults filled in, as YAML. */}}
{{- define "penstock.pool" -}}
{{- mergeOverwrite (deepCopy .root.Values.poolDefaults) .pool | toYaml }}
{{- end }}
