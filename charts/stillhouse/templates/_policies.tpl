{{- /* Parts of network policies. */}}

{{- /* Namespaces that get policies for jobs, separated by commas. */}}
{{- define "stillhouse.jobNamespaces" -}}
{{- if .Values.networkPolicy.namespaces }}
{{- join "," .Values.networkPolicy.namespaces }}
{{- else if eq .Values.scope "namespace" }}
{{- .Release.Namespace }}
{{- end }}
{{- end }}

{{- /* One rule: called with its peers' key, the peers, the TCP ports, and whether UDP is meant too. */}}
{{- define "stillhouse.rule" -}}
{{- $rule := dict }}
{{- with index . 1 }}
{{- $_ := set $rule (index $ 0) . }}
{{- end }}
{{- $ports := list }}
{{- range index . 2 }}
{{- if index $ 3 }}
{{- $ports = append $ports (dict "port" (int .) "protocol" "UDP") }}
{{- end }}
{{- $ports = append $ports (dict "port" (int .) "protocol" "TCP") }}
{{- end }}
{{- with $ports }}
{{- $_ := set $rule "ports" . }}
{{- end }}
{{- list $rule | toYaml }}
{{- end }}

{{- define "stillhouse.egress" -}}
{{- include "stillhouse.rule" (list "to" .to .ports false) }}
{{- end }}

{{- define "stillhouse.metricsIngress" -}}
{{- include "stillhouse.rule" (list "from" .Values.networkPolicy.metrics.from (list 9464) false) }}
{{- end }}

{{- /* Selects the pods of jobs by role. */}}
{{- define "stillhouse.role" -}}
matchLabels:
  app.kubernetes.io/name: stillhouse
  app.kubernetes.io/component: {{ . }}
{{- end }}

{{- /* Where whoever asks the teacher may go: coordinators (of a job without gateways) and gateways. */}}
{{- define "stillhouse.askers" -}}
{{- $policy := .Values.networkPolicy }}
{{- if $policy.teacher.enabled -}}
# The teacher.
{{ include "stillhouse.egress" $policy.teacher }}
{{- end }}
{{- if $policy.redis.enabled }}
# A Redis of somebody else's.
{{ include "stillhouse.egress" $policy.redis }}
{{- end }}
{{- if .Values.redis.enabled }}
# The release's Redis.
- to:
    - namespaceSelector:
        matchLabels:
          kubernetes.io/metadata.name: {{ .Release.Namespace }}
      podSelector:
        matchLabels: {{- include "stillhouse.redisSelector" . | nindent 10 }}
  ports: [{ port: 6379, protocol: TCP }]
{{- end }}
{{- end }}
