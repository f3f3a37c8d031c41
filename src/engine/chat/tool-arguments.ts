/** Arguments of earlier calls on their way through a template, which writes them as JSON again: digit for digit, in the caller's order. */
import { parseJson } from './jinja/json.ts'
import { Dict, Made } from './jinja/values.ts'

/** The arguments as a value for a template; '' and null are no arguments, and what is no JSON stays a string. */
export function templateArguments(json: string): unknown {
  if (json.trim() === '' || json.trim() === 'null') return new Made(new Dict())
  const parsed = parseJson(json)
  return parsed === null ? json : new Made(parsed.value)
}
