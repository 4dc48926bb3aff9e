{{/* The archiver in a pod: container, volumes, probes. */}}

{{- define "archiver.env" -}}
{{- $destination := dig "destination" dict (include "archiver.config" . | fromYaml) }}
{{- if include "archiver.secretName" . }}
{{- range list (list "identity" "identity" "ARCHIVER_IDENTITY") (list "passphrase" "passphrase-file" "ARCHIVER_DESTINATION__PASSPHRASE_FILE") (list "password" "password-file" "ARCHIVER_PASSWORD_FILE") (list "knownHosts" "known-hosts" "ARCHIVER_KNOWN_HOSTS") }}
{{- $file := get $.Values.secret (index . 0) }}
{{- if and $file (not (hasKey $destination (index . 1))) }}
- name: {{ index . 2 }}
  value: /run/secrets/archiver/{{ $file }}
{{- end }}
{{- end }}
{{- end }}
{{- if include "archiver.ledger.items" . }}
{{- with .Values.ledger.password }}
- name: ARCHIVER_LEDGER_PASSWORD_FILE
  value: /run/secrets/ledger/{{ . }}
{{- end }}
{{- with .Values.ledger.ca }}
- name: ARCHIVER_LEDGER__CA_FILE
  value: /run/secrets/ledger/{{ . }}
{{- end }}
{{- end }}
{{- with .Values.extraEnv }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "archiver.probe" -}}
httpGet:
  path: {{ .path }}
  port: {{ .port }}
{{ toYaml (omit .settings "enabled") }}
{{- end }}

{{/* What `watch` serves. */}}
{{- define "archiver.probes" -}}
{{- $name := include "archiver.port.name" . }}
startupProbe:
  {{- include "archiver.probe" (dict "path" "/healthz" "port" $name "settings" .Values.probes.startup) | nindent 2 }}
livenessProbe:
  {{- include "archiver.probe" (dict "path" "/healthz" "port" $name "settings" .Values.probes.liveness) | nindent 2 }}
{{- if eq (toString (ternary (ne .Values.shape "sidecar") .Values.probes.readiness.enabled (kindIs "invalid" .Values.probes.readiness.enabled))) "true" }}
readinessProbe:
  {{- include "archiver.probe" (dict "path" "/readyz" "port" $name "settings" .Values.probes.readiness) | nindent 2 }}
{{- end }}
{{- end }}

{{/* Where the archiver finds the files, its state, its configuration and its secrets. */}}
{{- define "archiver.volumeMounts" -}}
{{- $name := include "archiver.container.name" . }}
{{- if eq .Values.shape "demo" }}
- name: pine
  mountPath: /var/pine
{{- else }}
- name: {{ .Values.source.volume | default (printf "%s-source" $name) }}
  mountPath: {{ .Values.source.mountPath }}
  {{- with .Values.source.subPath }}
  subPath: {{ . }}
  {{- end }}
  {{- if .Values.source.readOnly }}
  readOnly: true
  {{- end }}
{{- end }}
- name: {{ .Values.state.volume | default (printf "%s-state" $name) }}
  mountPath: /var/lib/archiver
{{ include "archiver.volumeMounts.settings" . | trim }}
{{- with .Values.extraVolumeMounts }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "archiver.volumeMounts.settings" -}}
{{- $name := include "archiver.container.name" . }}
- name: {{ $name }}-config
  mountPath: /etc/archiver
  readOnly: true
{{- if include "archiver.secret.items" . }}
- name: {{ $name }}-secret
  mountPath: /run/secrets/archiver
  readOnly: true
{{- end }}
{{- if include "archiver.ledger.items" . }}
- name: {{ $name }}-ledger
  mountPath: /run/secrets/ledger
  readOnly: true
{{- end }}
{{- end }}

{{- define "archiver.secret.items" -}}
{{- if include "archiver.secretName" . }}
{{- range list "identity" "passphrase" "password" "knownHosts" }}
{{- with get $.Values.secret . }}
- key: {{ . }}
  path: {{ . }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}

{{- define "archiver.ledger.secretName" -}}
{{ .Values.ledger.secret | default (include "archiver.secretName" .) }}
{{- end }}

{{- define "archiver.ledger.items" -}}
{{- if include "archiver.ledger.shared" . }}
{{- range list "password" "ca" }}
{{- with get $.Values.ledger . }}
- key: {{ . }}
  path: {{ . }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}

{{- define "archiver.volumes.settings" -}}
{{- $name := include "archiver.container.name" . }}
- name: {{ $name }}-config
  configMap:
    name: {{ include "archiver.fullname" . }}
    items:
      - key: archiver.toml
        path: archiver.toml
{{- with include "archiver.secret.items" . }}
- name: {{ $name }}-secret
  secret:
    secretName: {{ include "archiver.secretName" $ }}
    # The group of the pod may read it, nobody else: the files belong to root and to fsGroup.
    defaultMode: 0440
    items:
      {{- trim . | nindent 6 }}
{{- end }}
{{- with include "archiver.ledger.items" . }}
- name: {{ $name }}-ledger
  secret:
    secretName: {{ include "archiver.ledger.secretName" $ }}
    defaultMode: 0440
    items:
      {{- trim . | nindent 6 }}
{{- end }}
{{- end }}

{{- define "archiver.volumes.state" -}}
{{- if not .Values.state.volume }}
- name: {{ include "archiver.container.name" . }}-state
  {{- if .Values.state.existingClaim }}
  persistentVolumeClaim:
    claimName: {{ .Values.state.existingClaim }}
  {{- else if or .Values.state.emptyDir (eq .Values.shape "demo") (include "archiver.ledger.shared" .) }}
  emptyDir:
    sizeLimit: {{ .Values.state.size }}
  {{- else }}
  persistentVolumeClaim:
    claimName: {{ include "archiver.fullname" . }}-state
  {{- end }}
{{- end }}
{{- end }}

{{- define "archiver.volumes" -}}
{{- if .Values.source.existingClaim }}
- name: {{ include "archiver.container.name" . }}-source
  persistentVolumeClaim:
    claimName: {{ .Values.source.existingClaim }}
    {{- if .Values.source.readOnly }}
    readOnly: true
    {{- end }}
{{- end }}
{{- include "archiver.volumes.state" . }}
{{ include "archiver.volumes.settings" . | trim }}
{{- with .Values.extraVolumes }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* What any container of the archiver has. */}}
{{- define "archiver.container.basics" -}}
image: {{ include "archiver.image" . }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
securityContext:
  {{- toYaml .Values.securityContext | nindent 2 }}
resources:
  {{- toYaml .Values.resources | nindent 2 }}
terminationMessagePath: /dev/termination-log
terminationMessagePolicy: FallbackToLogsOnError
{{- end }}

{{/* `archiver watch`. */}}
{{- define "archiver.container.watch" -}}
name: {{ include "archiver.container.name" . }}
args:
  - watch
  - --termination-log
  - /dev/termination-log
  {{- with .Values.extraArgs }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
env:
  # The image has a port of its own otherwise.
  - name: ARCHIVER_METRICS
    value: {{ ternary (printf ":%d" (int .Values.metrics.port)) "none" .Values.metrics.enabled | quote }}
  {{- with include "archiver.env" . | trim }}
  {{- . | nindent 2 }}
  {{- end }}
{{- if .Values.metrics.enabled }}
ports:
  - name: {{ include "archiver.port.name" . }}
    containerPort: {{ int .Values.metrics.port }}
    protocol: TCP
{{ include "archiver.probes" . | trim }}
{{- end }}
{{ include "archiver.container.basics" . }}
volumeMounts:
  {{- include "archiver.volumeMounts" . | trim | nindent 2 }}
{{- end }}

{{/* `archiver push`, once. */}}
{{- define "archiver.container.push" -}}
name: {{ include "archiver.container.name" . }}
args:
  - push
  - --termination-log
  - /dev/termination-log
  {{- with .Values.extraArgs }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- with include "archiver.env" . | trim }}
env:
  {{- . | nindent 2 }}
{{- end }}
{{ include "archiver.container.basics" . }}
volumeMounts:
  {{- include "archiver.volumeMounts" . | trim | nindent 2 }}
{{- end }}

{{/* What every pod of this chart says of itself. */}}
{{- define "archiver.pod.basics" -}}
serviceAccountName: {{ include "archiver.serviceAccountName" . }}
automountServiceAccountToken: false
# A Service called archiver would set variables that look like settings.
enableServiceLinks: false
{{- with .Values.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
securityContext:
  {{- $context := deepCopy .Values.podSecurityContext }}
  {{- if eq .Values.shape "demo" }}
  {{- $uid := int .Values.demo.pine.uid }}
  {{- $context = mustMergeOverwrite $context (dict "runAsUser" $uid "runAsGroup" $uid "fsGroup" $uid) }}
  {{- end }}
  {{- toYaml $context | nindent 2 }}
{{- end }}

{{/* Replicas on one node would go with it together. A choice of the values' stands; no node too few keeps a pod waiting. */}}
{{- define "archiver.pod.spread" -}}
{{- if and (include "archiver.replicated" .) (not .Values.affinity) (not .Values.topologySpreadConstraints) }}
topologySpreadConstraints:
  - maxSkew: 1
    topologyKey: kubernetes.io/hostname
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels:
        {{- include "archiver.selectorLabels" . | nindent 8 }}
        app.kubernetes.io/component: watch
{{- end }}
{{- end }}

{{- define "archiver.pod.placement" -}}
{{- range $key := list "nodeSelector" "tolerations" "affinity" "topologySpreadConstraints" }}
{{- with get $.Values $key }}
{{ $key }}:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}
{{- with .Values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- end }}

{{- define "archiver.pod.metadata" -}}
labels:
  {{- include "archiver.labels" .root | nindent 2 }}
  app.kubernetes.io/component: {{ .component }}
  {{- with .root.Values.podLabels }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
annotations:
  {{- include "archiver.sidecar.annotations" .root | nindent 2 }}
  kubectl.kubernetes.io/default-container: {{ .container | default (include "archiver.container.name" .root) }}
  {{- with .root.Values.podAnnotations }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end }}
