{{/* Names, labels, the image. */}}

{{- define "archiver.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 40 | trimSuffix "-" }}
{{- end }}

{{/* Short enough for every suffix, and for the 52 characters of a CronJob. */}}
{{- define "archiver.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 44 | trimSuffix "-" }}
{{- else if contains (include "archiver.name" .) .Release.Name }}
{{- .Release.Name | trunc 44 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name (include "archiver.name" .) | trunc 44 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{- define "archiver.selectorLabels" -}}
app.kubernetes.io/name: {{ include "archiver.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "archiver.labels" -}}
{{ include "archiver.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/part-of: archiver
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "archiver.image" -}}
{{- with .Values.image }}
{{- if .digest }}{{ .repository }}@{{ .digest }}{{ else }}{{ .repository }}:{{ .tag | default $.Chart.AppVersion }}{{ end }}
{{- end }}
{{- end }}

{{- define "archiver.serviceAccountName" -}}
{{- $made := and .Values.serviceAccount.create (ne .Values.shape "sidecar") }}
{{- .Values.serviceAccount.name | default (ternary (include "archiver.fullname" .) "default" $made) }}
{{- end }}

{{/* The volumes' and the container's name in a pod; other than those of a second archiver under an alias. */}}
{{- define "archiver.container.name" -}}
{{- include "archiver.name" . }}
{{- end }}

{{/* `true` where several pods are meant to be up. */}}
{{- define "archiver.replicated" -}}
{{- if and (eq .Values.shape "deployment") (gt (int .Values.deployment.replicas) 1) }}true{{ end }}
{{- end }}

{{/* Names of the demo's other half. */}}
{{- define "archiver.sftp.fullname" -}}
{{- include "archiver.fullname" . }}-sftp
{{- end }}

{{- define "archiver.secretName" -}}
{{- if .Values.secret.name }}
{{- .Values.secret.name }}
{{- else if eq .Values.shape "demo" }}
{{- include "archiver.fullname" . }}-keys
{{- end }}
{{- end }}

{{/* Of the metrics; at most 15 characters. */}}
{{- define "archiver.port.name" -}}
{{- include "archiver.name" . | trunc 15 | trimSuffix "-" }}
{{- end }}
