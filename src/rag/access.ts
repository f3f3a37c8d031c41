/**
 * Which index a name means for whom. An index belongs to the key that made it. The indexes of the server (made on the command line, by a server without
 * keys, or with an admin key) are shared by name.
 */
import { isIndexName } from './vector-index.ts'

/** What a key may do with a shared index: search it; also change it; also make it if it does not exist. */
export type SharedAccess = 'read' | 'change' | 'make'

/** The indexes that a caller may use. */
export interface IndexAccess {
  /** The key whose own indexes come first; null: names mean the server's indexes. */
  readonly tenant: string | null
  /** May use the indexes of every key, as KEY:NAME, or as NAME if it is unique. */
  readonly isAdmin: boolean
  /** What the caller may do with the server's index of a name; null: nothing. */
  readonly sharedAccess: (name: string) => SharedAccess | null
}

/** The operator's access: all indexes of the server. */
export const SERVER_ACCESS: IndexAccess = { tenant: null, isAdmin: false, sharedAccess: () => 'make' }

/** The form of a key's name or digest. */
const TENANT = /^[A-Za-z0-9._-]{1,64}$/

/** The name of a key's index in a store. The server's indexes have no colon in their names. */
export const storedName = (tenant: string | null, name: string): string =>
  tenant === null ? name : `${tenant}:${name}`

/** The key and the name in a stored name; null for an invalid one. */
export function parseStoredName(stored: string): { readonly tenant: string | null; readonly name: string } | null {
  const colon = stored.indexOf(':')
  const tenant = colon < 0 ? null : stored.slice(0, colon)
  const name = stored.slice(colon + 1)
  return isIndexName(name) && (tenant === null || TENANT.test(tenant)) ? { tenant, name } : null
}
