{{- /* Names, labels and images. */}}

{{- define "stillhouse.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 40 | trimSuffix "-" }}
{{- end }}

{{- define "stillhouse.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" }}
{{- else if contains (include "stillhouse.name" .) .Release.Name }}
{{- .Release.Name | trunc 40 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name (include "stillhouse.name" .) | trunc 40 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{- define "stillhouse.operator" -}}
{{ include "stillhouse.fullname" . }}-operator
{{- end }}

{{- define "stillhouse.redis" -}}
{{ include "stillhouse.fullname" . }}-redis
{{- end }}

{{- define "stillhouse.redisSecret" -}}
{{- default (include "stillhouse.redis" .) .Values.redis.existingSecret }}
{{- end }}

{{- define "stillhouse.serviceAccount" -}}
{{- if .Values.serviceAccount.create }}
{{- default (include "stillhouse.operator" .) .Values.serviceAccount.name }}
{{- else }}
{{- required "serviceAccount.name is needed when serviceAccount.create is false" .Values.serviceAccount.name }}
{{- end }}
{{- end }}

{{- define "stillhouse.labels" -}}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/part-of: stillhouse
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version | replace "+" "_" }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- /* Not `app.kubernetes.io/name: stillhouse`: that is the label of the pods of jobs, which policies select. */}}
{{- define "stillhouse.operatorSelector" -}}
app.kubernetes.io/name: stillhouse-operator
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "stillhouse.redisSelector" -}}
app.kubernetes.io/name: stillhouse-redis
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- /* With `stillhouse.labels` they hold the selector. */}}
{{- define "stillhouse.operatorLabels" -}}
app.kubernetes.io/name: stillhouse-operator
app.kubernetes.io/component: operator
{{- end }}

{{- define "stillhouse.redisLabels" -}}
app.kubernetes.io/name: stillhouse-redis
app.kubernetes.io/component: queue
{{- end }}

{{- /* An image by digest, or by tag; called with the image and the release's version. */}}
{{- define "stillhouse.image" -}}
{{- $image := index . 0 }}
{{- if $image.digest -}}
{{ $image.repository }}@{{ $image.digest }}
{{- else -}}
{{ $image.repository }}:{{ default (index . 1) $image.tag }}
{{- end }}
{{- end }}

{{- /* What keeps a container from anything it has no need of. */}}
{{- define "stillhouse.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: { drop: [ALL] }
{{- end }}
