{{/* All that is wrong with the values and that a schema cannot say, told at once. */}}

{{- define "archiver.mistakes" -}}
{{- $values := .Values }}
{{- $shape := .Values.shape }}
{{- $config := include "archiver.config" . | fromYaml }}
{{- if and $values.config $values.configText }}
- config and configText are two ways to say the same; give one of them
{{- end }}
{{- if and $values.configText (eq $shape "demo") }}
- configText: the demo has a configuration of its own; change single keys of it with config
{{- end }}
{{- if and (kindIs "string" $config.Error) $values.configText }}
- configText is not TOML: {{ $config.Error | replace "\n" " " }}
{{- else }}

{{- if and (has $shape (list "deployment" "cronjob")) (not $values.source.existingClaim) }}
- source.existingClaim: name the PersistentVolumeClaim whose files are to be archived
{{- end }}
{{- if and (eq $shape "sidecar") (not $values.source.volume) }}
- source.volume: name the volume of your pod that the files are in
{{- end }}
{{- if and (ne $shape "sidecar") (or $values.source.volume $values.state.volume) }}
- source.volume and state.volume are volumes of somebody else's pod, for shape: sidecar; name a claim with source.existingClaim and state.existingClaim
{{- end }}

{{- $everywhere := dig "destination" "url" "" $config }}
{{- range $config.source }}
{{- if and (not $everywhere) (not (dig "destination" "url" "" .)) (ne $shape "demo") }}
- config.destination.url: say where the files of the source {{ .name | default "without a name" | quote }} go, as in sftp://user@host/upload
{{- end }}
{{- end }}
{{- if not $config.source }}
- configText has no [[source]]: name one, with paths below {{ $values.source.mountPath }}
{{- end }}
{{- range include "archiver.config.urls" . | fromYamlArray }}
{{- if not (hasPrefix "sftp://" .) }}
- config.destination.url has to begin with sftp://
{{- else if regexMatch "^sftp://[^@/]*:[^@/]*@" . }}
- config.destination.url has a password in it: put that into the Secret, and name its key in secret.password
{{- end }}
{{- end }}

{{- $credentials := dig "destination" "identity" (dig "destination" "password-file" "" $config) $config }}
{{- range $values.extraEnv }}
{{- if has .name (list "ARCHIVER_PASSWORD" "ARCHIVER_PASSWORD_FILE" "ARCHIVER_IDENTITY" "ARCHIVER_DESTINATION__PASSWORD") }}{{ $credentials = .name }}{{ end }}
{{- end }}
{{- if and (not (include "archiver.secretName" .)) (not $credentials) }}
- secret.name: name an existing Secret with the keys {{ $values.secret.identity | default "id_ed25519" }} and {{ $values.secret.knownHosts | default "known_hosts" }} (kubectl create secret generic NAME --from-file=id_ed25519 --from-file=known_hosts)
{{- else if and $values.secret.name (not $credentials) (not (or $values.secret.identity $values.secret.password)) }}
- secret.identity or secret.password: name the key of the Secret that holds the private key or the password
{{- end }}
{{- if and (not $values.secret.knownHosts) (not (dig "destination" "known-hosts" "" $config)) (not (hasPrefix "SHA256:" (dig "destination" "host-key" "strict" $config))) }}
- secret.knownHosts is empty: then config.destination.host-key has to pin the server's key, as SHA256:…
{{- end }}

{{- $shared := include "archiver.ledger.shared" . }}
{{- $ledger := dig "ledger" "url" "" $config }}
{{- if and (or $values.ledger.secret $values.ledger.password $values.ledger.ca) (not $shared) }}
- ledger.secret, ledger.password and ledger.ca are for a ledger in Redis; give its address as config.ledger.url
{{- else if and $values.ledger.secret (not (or $values.ledger.password $values.ledger.ca)) }}
- ledger.secret: name the keys in {{ $values.ledger.secret }} that are meant: ledger.password, ledger.ca
{{- else if and (or $values.ledger.password $values.ledger.ca) (not (include "archiver.ledger.secretName" .)) }}
- ledger.secret: name the Secret that {{ $values.ledger.password | default $values.ledger.ca }} is a key of
{{- end }}
{{- if and $values.ledger.ca $shared (not (hasPrefix "rediss" $ledger)) }}
- ledger.ca is for TLS, and config.ledger.url does not ask for it: rediss://… does
{{- end }}
{{- if and (hasPrefix "rediss" $ledger) (not $values.ledger.ca) (not (dig "ledger" "ca-file" "" $config)) (not $values.extraVolumeMounts) }}
- ledger.ca: the image has no certificates to check a {{ regexFind "^[a-z+]+" $ledger }}:// server's against; name the key of the Secret that has them
{{- end }}
{{- if regexMatch "^redis[^/]*://[^@/]*:[^@/]*@" $ledger }}
- config.ledger.url has a password in it: put that into the Secret, and name its key in ledger.password
{{- end }}
{{- $dedupe := dig "ledger" "dedupe" "off" $config | toString }}
{{- if not (has $dedupe (list "off" "content")) }}
- config.ledger.dedupe is {{ $dedupe }}: it is content, or off (in YAML with quotes, "off")
{{- end }}
{{- $direct := eq (dig "destination" "publish" "" $config | toString) "direct" }}
{{- range $config.source }}{{ if kindIs "map" . }}{{ if eq (dig "destination" "publish" "" . | toString) "direct" }}{{ $direct = true }}{{ end }}{{ end }}{{ end }}
{{- if and (eq $dedupe "content") $direct }}
- config.ledger.dedupe is content, and a destination has publish: direct: what is written in place cannot be called back; leave one of them out
{{- end }}
{{- if and (eq $shape "deployment") (gt (int $values.deployment.replicas) 1) }}
{{- if not $shared }}
- deployment.replicas is {{ int $values.deployment.replicas }}: several archivers need one ledger, in Redis; give its address as config.ledger.url, or stay at 1
{{- end }}
{{- if not $values.source.shared }}
- deployment.replicas is {{ int $values.deployment.replicas }}: the claim has to be ReadWriteMany; if it is, say so with source.shared: true
{{- end }}
{{- if or $values.state.existingClaim }}
- state.existingClaim: several archivers cannot share a ledger in a file; leave it out, the ledger is in Redis
{{- end }}
{{- with (lookup "v1" "PersistentVolumeClaim" $.Release.Namespace $values.source.existingClaim) }}
{{- if not (has "ReadWriteMany" .spec.accessModes) }}
- source.existingClaim: {{ $values.source.existingClaim }} is {{ join ", " .spec.accessModes }}, not ReadWriteMany, which more than one replica needs
{{- end }}
{{- end }}
{{- end }}
{{- $places := 0 }}
{{- range list $values.state.existingClaim $values.state.volume $values.state.emptyDir }}{{ if . }}{{ $places = add1 $places }}{{ end }}{{ end }}
{{- if gt (int $places) 1 }}
- state: existingClaim, volume and emptyDir are three places for one ledger; give one of them
{{- end }}
{{- if and $values.state.existingClaim (eq $values.state.existingClaim $values.source.existingClaim) }}
- state.existingClaim: the ledger would lie among the files; give it a claim of its own, or leave it out
{{- end }}
{{- if and (eq $shape "sidecar") (eq (int $places) 0) (not $shared) }}
- state: say where the ledger of a sidecar is: state.volume (a volume of your pod, as from volumeClaimTemplates), state.existingClaim, or state.emptyDir: true where the files are in an emptyDir too
{{- end }}
{{- if and (has $shape (list "deployment" "cronjob")) $values.state.emptyDir (not $shared) }}
- state.emptyDir would be lost with each pod, and every file that still stands archived once more; leave it out, and the chart makes a claim
{{- end }}

{{- if ne $shape "demo" }}
{{- $mounts := list $values.source.mountPath }}
{{- range $values.extraVolumeMounts }}{{ $mounts = append $mounts .mountPath }}{{ end }}
{{- range $source := $config.source }}
{{- range $path := .paths }}
{{- $below := false }}
{{- range $mounts }}{{ if hasPrefix (printf "%s/" (trimSuffix "/" .)) (printf "%s/" $path) }}{{ $below = true }}{{ end }}{{ end }}
{{- if not $below }}
- config.source {{ $source.name | default "without a name" | quote }}: {{ $path }} is on no volume; {{ join ", " $mounts }} {{ ternary "is" "are" (eq (len $mounts) 1) }}
{{- end }}
{{- end }}
{{- if and $values.source.readOnly (ne (toString (.after | default (get $config "after") | default "keep")) "keep") }}
- source.readOnly: the source {{ .name | default "without a name" | quote }} has after: {{ .after | default (get $config "after") }}, which has to write to the volume
{{- end }}
{{- end }}
{{- end }}

{{- if eq (include "archiver.seconds" (dig "shutdown" "grace" "25s" $config)) "" }}
- config.shutdown.grace: {{ dig "shutdown" "grace" "" $config | toString | quote }} is no duration; write it with its unit, as in 25s or 2m
{{- end }}
{{- if dig "metrics" "listen" "" $config }}
- config.metrics.listen: the chart sets the address; say which port with metrics.port
{{- end }}
{{- if and (eq $shape "sidecar") $values.networkPolicy.enabled }}
- networkPolicy: a policy for a sidecar is one for your whole pod; write it in your own chart
{{- end }}
{{- if ne $values.monitor.kind "none" }}
{{- if eq $shape "cronjob" }}
- monitor.kind: pods of a CronJob end before anybody looks; watch the Job itself (kube_job_failed)
{{- else if not $values.metrics.enabled }}
- monitor.kind: there is nothing to look at without metrics.enabled
{{- else if and (eq $shape "sidecar") (not $values.monitor.selector) }}
- monitor.selector: give the labels of your pods
{{- end }}
{{- end }}
{{- if and (eq $shape "demo") (ne (not $values.secret.name) (not $values.demo.sftp.existingSecret)) }}
- demo.sftp.existingSecret and secret.name: the server's keys and the archiver's belong together; give both or none
{{- end }}
{{- if and (eq $shape "demo") (not $values.secret.name) (not (and $values.secret.identity $values.secret.knownHosts)) }}
- secret.identity and secret.knownHosts name the two keys of the Secret that the demo makes; neither can be empty
{{- end }}
{{- if and $values.prometheusRule.enabled (not (.Files.Get "alerts/archiver.rules.yaml")) }}
- prometheusRule: this copy of the chart has no alerts/archiver.rules.yaml
{{- end }}
{{- if and $values.dashboard.enabled (not (.Files.Get "dashboards/archiver.json")) }}
- dashboard: this copy of the chart has no dashboards/archiver.json
{{- end }}
{{- end }}
{{- end }}

{{- define "archiver.validate" -}}
{{- with include "archiver.mistakes" . | trim }}
{{- fail (printf "\n\nThese values will not do:\n\n%s\n" .) }}
{{- end }}
{{- end }}
