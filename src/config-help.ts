/** `--help`, made from the settings. */
import { GROUPS, SETTINGS } from './settings/settings.ts'

/** The text of --help. */
export function helpText(): string {
  const lines = [
    'usage: miniserve [serve] [flags]               serve a model over the OpenAI API',
    '       miniserve rag index PATH... [--strict] [flags]',
    '       miniserve trace validate FILE [--level contract|steps|kernels]',
    '       miniserve trace convert FILE --to otlp|tempo|grafana|jaeger',
    '       miniserve eval perplexity FILE [--context N] [flags]',
    '       miniserve eval choices FILE.jsonl [flags]',
    '       miniserve bench [-p N] [-n N] [-r N] [--json] [flags]',
    '       miniserve --version | --help',
  ]
  for (const group of GROUPS) {
    lines.push('', `${group}:`)
    for (const setting of SETTINGS.filter((candidate) => candidate.group === group)) {
      const name = setting.flag ? `--${setting.flag}${setting.value ? ` ${setting.value}` : ''}` : (setting.env ?? '')
      const env = setting.flag && setting.env ? ` [${setting.env}]` : ''
      const fallback = setting.isBoolean ? '' : ` (${setting.printedDefault})`
      lines.push(`  ${name}${env}`, `      ${setting.help}${fallback}`)
    }
  }
  return `${lines.join('\n')}\n`
}
