{{/*
What another chart puts into its own pod. It has this chart as a dependency, with `shape: sidecar`, and gives
`.Subcharts.archiver` to each of these; helm/examples/pine does so.

  metadata.annotations        {{- include "archiver.sidecar.annotations" .Subcharts.archiver | nindent 8 }}
  terminationGracePeriodSeconds: {{ include "archiver.sidecar.terminationGracePeriodSeconds" .Subcharts.archiver }}
  initContainers:
    - {{- include "archiver.sidecar.nativeSidecar" .Subcharts.archiver | nindent 10 }}
  volumes:
    {{- include "archiver.sidecar.volumes" .Subcharts.archiver | nindent 8 }}
*/}}

{{/* An init container that stays: it starts before the application and is told to stop after it. Kubernetes 1.29. */}}
{{- define "archiver.sidecar.nativeSidecar" -}}
{{ include "archiver.container.watch" . }}
restartPolicy: Always
{{- end }}

{{/* An ordinary container, told to stop at the same moment as the application. */}}
{{- define "archiver.sidecar.container" -}}
{{ include "archiver.container.watch" . }}
{{- with int .Values.sidecar.preStopSeconds }}
lifecycle:
  preStop:
    sleep:
      seconds: {{ . }}
{{- end }}
{{- end }}

{{- define "archiver.sidecar.volumes" -}}
{{ include "archiver.volumes" . | trim }}
{{- end }}

{{- define "archiver.sidecar.annotations" -}}
checksum/{{ include "archiver.container.name" . }}-config: {{ include "archiver.checksum" . }}
{{- end }}

{{/* The application's time to end comes first, then the archiver's. */}}
{{- define "archiver.sidecar.terminationGracePeriodSeconds" -}}
{{- add (max (int .Values.sidecar.applicationSeconds) (int .Values.sidecar.preStopSeconds)) (include "archiver.terminationGracePeriodSeconds" . | int64) }}
{{- end }}

{{/* The ConfigMap that the volumes speak of. This chart makes it by itself. */}}
{{- define "archiver.sidecar.configmap" -}}
apiVersion: v1
kind: ConfigMap
metadata:
  name: {{ include "archiver.fullname" . }}
  namespace: {{ .Release.Namespace }}
  labels:
    {{- include "archiver.labels" . | nindent 4 }}
data:
  archiver.toml: |
    {{- include "archiver.config.text" . | nindent 4 }}
{{- end }}
