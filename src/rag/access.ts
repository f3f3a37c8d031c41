/**
 * Whose indexes a name means. An index belongs to the key that made it; the indexes of the server itself (made on the command line, by a server
 * without keys, or with an admin key) are shared by name.
 */
import { isIndexName } from './vector-index.ts'

/** What a key may do with a shared index: search it; also change it; also make it where there is none of the name. */
export type SharedAccess = 'read' | 'change' | 'make'

/** What a caller reaches. */
export interface IndexAccess {
  /** The key whose own indexes its names mean first; null: names mean the server's. */
  readonly tenant: string | null
  /** Sees the indexes of every key, as NAME where only one has that name, and as KEY:NAME. */
  readonly isAdmin: boolean
  /** What it may do with the server's index of a name; null: for it there is none. */
  readonly sharedAccess: (name: string) => SharedAccess | null
}

/** The operator's access: all indexes of the server. */
export const SERVER_ACCESS: IndexAccess = { tenant: null, isAdmin: false, sharedAccess: () => 'make' }

/** Form of a key's name or digest. */
const TENANT = /^[A-Za-z0-9._-]{1,64}$/

/** The name by which stores keep a key's index. No index of the server's can have it: those have no colon. */
export const storedName = (tenant: string | null, name: string): string =>
  tenant === null ? name : `${tenant}:${name}`

/** The key and the name within a stored name; null where it is none. */
export function parseStoredName(stored: string): { readonly tenant: string | null; readonly name: string } | null {
  const colon = stored.indexOf(':')
  const tenant = colon < 0 ? null : stored.slice(0, colon)
  const name = stored.slice(colon + 1)
  return isIndexName(name) && (tenant === null || TENANT.test(tenant)) ? { tenant, name } : null
}
