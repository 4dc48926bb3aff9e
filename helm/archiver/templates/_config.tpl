{{/* archiver.toml, and what the rest of the chart has to know of it. */}}

{{/* Numbers of values are floating-point ones by the time a template sees them, and TOML tells 8 from 8.0. */}}
{{- define "archiver.toml.value" -}}
{{- if kindIs "map" . -}}
{ {{- $first := true }}{{ range $key, $value := . }}{{ if not $first }}, {{ end }}{{ $first = false }}{{ include "archiver.toml.key" $key }} = {{ include "archiver.toml.value" $value }}{{ end -}} }
{{- else if kindIs "slice" . -}}
[{{ range $index, $value := . }}{{ if $index }}, {{ end }}{{ include "archiver.toml.value" $value }}{{ end }}]
{{- else if kindIs "string" . -}}
{{ toRawJson . }}
{{- else if and (kindIs "float64" .) (eq . (floor .)) -}}
{{ printf "%.0f" . }}
{{- else -}}
{{ . }}
{{- end -}}
{{- end }}

{{- define "archiver.toml.key" -}}
{{ if regexMatch "^[A-Za-z0-9_-]+$" . }}{{ . }}{{ else }}{{ toRawJson . }}{{ end }}
{{- end }}

{{- define "archiver.toml.pairs" -}}
{{- range $key, $value := . }}
{{- if not (kindIs "invalid" $value) }}
{{ include "archiver.toml.key" $key }} = {{ include "archiver.toml.value" $value }}
{{- end }}
{{- end }}
{{- end }}

{{- define "archiver.toml" -}}
{{- $plain := dict }}
{{- $tables := dict }}
{{- range $key, $value := . }}
{{- if kindIs "map" $value }}
{{- $_ := set $tables $key (list $value) }}
{{- else if and (kindIs "slice" $value) $value (kindIs "map" (first $value)) }}
{{- $_ := set $tables $key $value }}
{{- else }}
{{- $_ := set $plain $key $value }}
{{- end }}
{{- end }}
{{- include "archiver.toml.pairs" $plain }}
{{- $all := . }}
{{- range $key, $items := $tables }}
{{- range $items }}
{{ if kindIs "map" (get $all $key) }}[{{ include "archiver.toml.key" $key }}]{{ else }}[[{{ include "archiver.toml.key" $key }}]]{{ end }}
{{- include "archiver.toml.pairs" . }}
{{ end }}
{{- end }}
{{- end }}

{{/* The whole configuration as YAML: the text's where there is one, else the values', with a source and the demo's rest. */}}
{{- define "archiver.config" -}}
{{- if .Values.configText -}}
{{ fromToml .Values.configText | toYaml }}
{{- else -}}
{{- $config := deepCopy (.Values.config | default dict) }}
{{- if eq .Values.shape "demo" }}
{{- $url := printf "sftp://pine@%s/upload" (include "archiver.sftp.fullname" .) }}
{{- $reports := dict "name" "reports" "paths" (list "/var/pine/reports") "after" "delete" }}
{{- $exports := dict "name" "exports" "paths" (list "/var/pine/exports") "marker" "{name}.done" "after" "delete" }}
{{- $demo := dict "destination" (dict "url" $url) "source" (list $reports $exports) }}
{{- $config = mustMergeOverwrite $demo $config }}
{{- else if not (hasKey $config "source") }}
{{- $_ := set $config "source" (list (dict "name" "data" "paths" (list .Values.source.mountPath))) }}
{{- end -}}
{{ toYaml $config }}
{{- end }}
{{- end }}

{{/* The file's text. */}}
{{- define "archiver.config.text" -}}
{{- if .Values.configText -}}
{{ .Values.configText | trim }}
{{- else -}}
{{ include "archiver.toml" (include "archiver.config" . | fromYaml) | trim }}
{{- end }}
{{- end }}

{{/* The addresses of all destinations, as a YAML list. */}}
{{- define "archiver.config.urls" -}}
{{- $config := include "archiver.config" . | fromYaml }}
{{- $urls := list }}
{{- with dig "destination" "url" "" $config }}{{ $urls = append $urls . }}{{ end }}
{{- range $config.source }}
{{- if kindIs "map" . }}{{ with dig "destination" "url" "" . }}{{ $urls = append $urls . }}{{ end }}{{ end }}
{{- end }}
{{- toYaml (uniq $urls) }}
{{- end }}

{{/* `true` where the ledger is shared by hosts. */}}
{{- define "archiver.ledger.shared" -}}
{{- $url := dig "ledger" "url" "" (include "archiver.config" . | fromYaml) }}
{{- if regexMatch "^rediss?(\\+sentinel)?://" $url }}true{{ end }}
{{- end }}

{{/* A duration as archiver takes it (25s, 1m 30s, 1500ms, 1h) in whole seconds, rounded up; nothing where it is none. */}}
{{- define "archiver.seconds" -}}
{{- $text := toString . | trim }}
{{- if eq $text "0" }}0
{{- else if regexMatch "^([0-9]+ *(ms|msec|s|sec|secs|second|seconds|m|min|mins|minute|minutes|h|hr|hrs|hour|hours|d|day|days) *)+$" $text }}
{{- $milliseconds := 0 }}
{{- range regexFindAll "[0-9]+ *[a-z]+" $text -1 }}
{{- $number := regexFind "[0-9]+" . | int64 }}
{{- $unit := regexFind "[a-z]+" . }}
{{- $factor := 1 }}
{{- if hasPrefix "ms" $unit }}{{ $factor = 1 }}
{{- else if hasPrefix "s" $unit }}{{ $factor = 1000 }}
{{- else if hasPrefix "m" $unit }}{{ $factor = 60000 }}
{{- else if hasPrefix "h" $unit }}{{ $factor = 3600000 }}
{{- else }}{{ $factor = 86400000 }}
{{- end }}
{{- $milliseconds = add $milliseconds (mul $number $factor) }}
{{- end }}
{{- div (add $milliseconds 999) 1000 }}
{{- end }}
{{- end }}

{{- define "archiver.grace" -}}
{{- include "archiver.seconds" (dig "shutdown" "grace" "25s" (include "archiver.config" . | fromYaml)) | default "25" }}
{{- end }}

{{/* The archiver's own grace, and time to print the summary and go. */}}
{{- define "archiver.terminationGracePeriodSeconds" -}}
{{- add (include "archiver.grace" . | int64) 5 }}
{{- end }}

{{/* Any change of it makes new pods. */}}
{{- define "archiver.checksum" -}}
{{- include "archiver.config.text" . | sha256sum }}
{{- end }}
