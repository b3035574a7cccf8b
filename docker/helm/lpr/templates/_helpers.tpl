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
