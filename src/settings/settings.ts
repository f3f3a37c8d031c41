/**
 * Every setting, as one zod schema: its flag, its variable, its default and what it does. A field's metadata drives the flag parser,
 * `--help` and the table in docs/configuration.md; config.ts reads command line and environment by it.
 */
import { z } from 'zod'
import { engineSettings } from './engine.ts'
import { type FieldMeta, fieldRegistry } from './field.ts'
import { modelSettings } from './model.ts'
import { observabilitySettings } from './observability.ts'
import { retrievalSettings } from './retrieval.ts'
import { serverSettings } from './server.ts'
import { storageSettings } from './storage.ts'

/** The settings by the titles of `--help`, in its order. */
const groups = {
  Server: serverSettings,
  Model: modelSettings,
  Engine: engineSettings,
  Retrieval: retrievalSettings,
  Observability: observabilitySettings,
  'Folders and downloads': storageSettings,
}

export const schema = z.object({
  ...serverSettings,
  ...modelSettings,
  ...engineSettings,
  ...retrievalSettings,
  ...observabilitySettings,
  ...storageSettings,
})

/** A setting with its metadata, for the parser, `--help` and the docs. */
export interface Setting extends FieldMeta {
  readonly key: string
  /** The title of its group. */
  readonly group: string
  readonly type: z.ZodType
  readonly isBoolean: boolean
  readonly isList: boolean
  readonly printedDefault: string
}

/** The titles of the groups, in order. */
export const GROUPS: readonly string[] = Object.keys(groups)

/** Every setting, in the order of the groups. */
export const SETTINGS: readonly Setting[] = Object.entries(groups).flatMap(([group, fields]) =>
  Object.entries(fields).map(([key, type]: [string, z.ZodType]) => {
    const meta = fieldRegistry.get(type)
    if (!meta) throw new Error(`config field ${key} has no metadata`)
    const fallback: unknown = type instanceof z.ZodDefault ? type.def.defaultValue : undefined
    return {
      ...meta,
      key,
      group,
      type,
      isBoolean: meta.flag !== undefined && meta.value === undefined,
      isList: Array.isArray(fallback),
      printedDefault: meta.defaultText ?? (fallback === null || fallback === undefined ? 'none' : String(fallback)),
    }
  }),
)
