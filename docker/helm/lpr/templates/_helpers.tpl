{{- define "lpr.selector" -}}
app.kubernetes.io/name: lpr
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "lpr.labels" -}}
{{ include "lpr.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end }}

{{- define "lpr.monitoringLabels" -}}
{{ include "lpr.labels" . }}
{{- range $name, $value := .Values.monitoring.labels }}
{{- if not (kindIs "invalid" $value) }}{{/* null: unset */}}
{{ $name }}: {{ $value | quote }}
{{- end }}
{{- end }}
{{- end }}

{{- /* A value as text. Helm reads the numbers of a file as floats, and prints those of seven digits as 2e+07. */}}
{{- define "lpr.text" -}}
{{- if and (kindIs "float64" .) (eq (floor .) .) }}{{ int64 . }}{{ else }}{{ . }}{{ end }}
{{- end }}
