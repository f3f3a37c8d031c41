/** The handles that a backend has given out. Rejects a handle of another backend, or of one that is closed. */
export class Handles<Handle extends { readonly label: string }, Own extends Handle> {
  readonly #kind: string
  readonly #own = new Map<Handle, Own>()

  /** @param kind what the handles stand for, named in the error */
  constructor(kind: string) {
    this.#kind = kind
  }

  add(own: Own): Own {
    this.#own.set(own, own)
    return own
  }

  /** @throws Error for an unknown handle */
  get(handle: Handle): Own {
    const own = this.#own.get(handle)
    if (own === undefined) throw new Error(`${this.#kind} ${handle.label} is not of this backend`)
    return own
  }

  /** Undefined for an unknown handle. */
  find(handle: Handle): Own | undefined {
    return this.#own.get(handle)
  }

  /** Registers `own` under a handle that was given out elsewhere. */
  adopt(handle: Handle, own: Own): Own {
    this.#own.set(handle, own)
    return own
  }

  /** All known handles, including adopted ones. */
  handles(): Handle[] {
    return [...this.#own.keys()]
  }

  values(): Own[] {
    return [...this.#own.values()]
  }

  delete(own: Own): void {
    this.#own.delete(own)
  }

  clear(): void {
    this.#own.clear()
  }
}
