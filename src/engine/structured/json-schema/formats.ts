/** The formats of JSON Schema that are enforced, as patterns of the whole string that match valid values only, if not every one of them. */

const YEAR = '(?:\\d{3}[1-9]|\\d{2}[1-9]0|\\d[1-9]00|[1-9]000)'
const LEAP_YEAR = '(?:\\d{2}(?:0[48]|[2468][048]|[13579][26])|(?:0[48]|[2468][048]|[13579][26])00)'
const DAY =
  '(?:(?:0[13578]|1[02])-(?:0[1-9]|[12]\\d|3[01])|(?:0[469]|11)-(?:0[1-9]|[12]\\d|30)|02-(?:0[1-9]|1\\d|2[0-8]))'
const DATE = `(?:${YEAR}-${DAY}|${LEAP_YEAR}-02-29)`
const TIME = '(?:[01]\\d|2[0-3]):[0-5]\\d:[0-5]\\d(?:\\.\\d{1,9})?(?:Z|[+-](?:[01]\\d|2[0-3]):[0-5]\\d)'
const PARTS = (units: string) => units.split('').map((unit) => `(?:\\d{1,4}${unit})?`).join('') // prettier-ignore

const HEX = (count: number) => `[0-9a-fA-F]{${count}}`
const UUID = (version: string, variant: string) =>
  `${HEX(8)}-${HEX(4)}-${version}${HEX(3)}-${variant}${HEX(3)}-${HEX(12)}`
const uuidOf = (version: number) => UUID(String(version), '[89abAB]')

const OCTET = '(?:25[0-5]|2[0-4]\\d|1\\d{2}|[1-9]?\\d)'
const IPV4 = `${OCTET}(?:\\.${OCTET}){3}`
const GROUP = '[0-9a-fA-F]{1,4}'
/** With `::` for any number of groups, and with the last two groups as an IPv4 address. */
const IPV6 = [
  `(?:${GROUP}:){7}${GROUP}`,
  `(?:${GROUP}:){6}${IPV4}`,
  `(?:${GROUP}:){1,7}:`,
  ...[1, 2, 3, 4, 5, 6].map((before) => `(?:${GROUP}:){1,${before}}(?::${GROUP}){1,${7 - before}}`),
  `:(?::${GROUP}){1,7}`,
  '::',
  `::(?:[fF]{4}:)?${IPV4}`,
].join('|')

const label = (length: number) => `[A-Za-z0-9](?:[A-Za-z0-9-]{0,${length - 2}}[A-Za-z0-9])?`
const host = (labelLength: number) => `(?:${label(labelLength)}\\.){1,4}[A-Za-z]{2,18}`
/** Short enough for the usual limit of 254 characters, so that it is not counted beside that limit. */
const EMAIL = `[A-Za-z0-9_+-](?:(?:\\.?[A-Za-z0-9_'+-]){0,40}\\.?[A-Za-z0-9_+-])?@${host(32)}`

const ESCAPED = '%[0-9A-Fa-f]{2}'
const QUERY = `(?:[A-Za-z0-9._~!$&'()*+,;=:@/?-]|${ESCAPED})`
const BEHIND_PATH = `(?:\\?${QUERY}{0,320})?(?:#${QUERY}{0,64})?`
/**
 * URIs with an authority, at most 2,048 characters long. Those without one, like `mailto:` and `urn:`, are seldom intended, and most programs that
 * ask for a URI do not take them.
 */
const URI = `(?:https?|ftp|wss?)://(?:${host(63)}|localhost|${IPV4})(?::[1-9]\\d{0,3})?(?:/(?:[A-Za-z0-9._~!$&'()*+,;=:@/-]|${ESCAPED}){0,160})?${BEHIND_PATH}`
const SEGMENT = '[A-Za-z0-9._~-]{1,64}'
/** A colon would make what stands before it a scheme, and two slashes would begin an authority. */
const RELATIVE = (isSlash: boolean) => `(?:[A-Za-z0-9._~!$&'()*+,;=@${isSlash ? '/' : ''}-]|${ESCAPED})`
const URI_REFERENCE = `${URI}|(?:(?:\\.{0,2}/)?${RELATIVE(false)}${RELATIVE(true)}{0,160}|\\.{0,2}/)${BEHIND_PATH}`
const POINTER = '(?:/(?:[A-Za-z0-9_-]|~[01]){0,64}){0,8}'

/** Any other format is an annotation, as the standard has it. */
export const STRING_FORMATS: ReadonlyMap<unknown, string> = new Map([
  ['date', DATE],
  ['time', TIME],
  ['date-time', `${DATE}T${TIME}`],
  ['duration', `P(?:\\d{1,4}W|(?=[\\dT])(?!.*T$)${PARTS('YMD')}(?:T(?=\\d)${PARTS('HMS')})?)`],
  ['uuid', UUID('[0-9a-fA-F]', '[0-9a-fA-F]')],
  ...[1, 3, 4, 5, 6, 7, 8].map((version) => [`uuid${version}`, uuidOf(version)] as const),
  ['ipv4', IPV4],
  ['ipv6', IPV6],
  ['ipvanyaddress', `${IPV4}|${IPV6}`],
  ['hostname', `${host(63)}|${label(63)}`],
  ['email', EMAIL],
  ['uri', URI],
  ['url', URI],
  ['iri', URI],
  ['uri-reference', URI_REFERENCE],
  ['iri-reference', URI_REFERENCE],
  ['uri-template', `(?:/(?:${SEGMENT}|\\{[A-Za-z_]\\w{0,31}\\})){1,8}`],
  ['json-pointer', POINTER],
  ['relative-json-pointer', `(?:0|[1-9]\\d{0,2})(?:#|${POINTER})`],
  ['idn-email', EMAIL],
  ['idn-hostname', host(63)],
  ['iso-time', TIME],
  ['iso-date-time', `${DATE}T${TIME}`],
  ['byte', '(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?'],
])

const COUNTED_HOST = '(?:[A-Za-z0-9]+(?:-+[A-Za-z0-9]+)*\\.)+[A-Za-z]{2,}'
const COUNTED_URI = `https?://${COUNTED_HOST}(?::[1-9]\\d{0,3})?(?:/${QUERY}*(?:#${QUERY}*)?)?`
const COUNTED_EMAIL = `[A-Za-z0-9_'+-]+(?:\\.[A-Za-z0-9_'+-]+)*[A-Za-z0-9_+-]@${COUNTED_HOST}`
const COUNTED_PATH = '(?:/[A-Za-z0-9._~-]+)'

/** Limit on the characters of a text of one of the formats below: it takes the place of their own limits. */
export const MAX_COUNTED_FORMAT = 200

/** Formats that take too many states beside a length or a pattern, without limits of their own. They also match valid values only. */
export const COUNTED_FORMATS: ReadonlyMap<unknown, string> = new Map([
  ['hostname', COUNTED_HOST],
  ['idn-hostname', COUNTED_HOST],
  ['email', COUNTED_EMAIL],
  ['idn-email', COUNTED_EMAIL],
  ['uri', COUNTED_URI],
  ['url', COUNTED_URI],
  ['iri', COUNTED_URI],
  ['uri-reference', `${COUNTED_PATH}+`],
  ['iri-reference', `${COUNTED_PATH}+`],
  ['uri-template', `${COUNTED_PATH}+`],
  ['json-pointer', '(?:/[A-Za-z0-9_-]*)*'],
  ['relative-json-pointer', '(?:0|[1-9]\\d{0,2})(?:#|(?:/[A-Za-z0-9_-]*)*)'],
])
