/** How a setting is declared: its type with its metadata. */
import { z } from 'zod'

/** How a field is set and described. `flag` is absent for settings that only the environment has. */
export interface FieldMeta {
  readonly flag?: string
  readonly env?: string
  readonly value?: string
  readonly help: string
  /** Messages do not quote it. A variable that is set and blank is refused: what should have filled it is missing. */
  readonly isSecret?: true
  /** Messages do not quote it: it may contain a password, as a URL may in places that no pattern finds. */
  readonly isUnquoted?: true
  /** What `--help` and the docs print as the default when it is not the plain value. */
  readonly defaultText?: string
}

export const fieldRegistry = z.registry<FieldMeta>()

/** Declares a setting. */
export const field = <T extends z.ZodType>(type: T, meta: FieldMeta): T => {
  fieldRegistry.add(type, meta)
  return type
}
