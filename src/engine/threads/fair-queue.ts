/** A queue in which tenants take turns, however many items one of them has. */

/** First in, first out for each tenant; tenants take turns. */
export class FairQueue<T> {
  /** In the order of their turns. */
  readonly #tenants = new Map<string, T[]>()
  #size = 0

  get size(): number {
    return this.#size
  }

  sizeOf(tenant: string): number {
    return this.#tenants.get(tenant)?.length ?? 0
  }

  push(tenant: string, item: T): void {
    const items = this.#tenants.get(tenant) ?? []
    items.push(item)
    this.#tenants.set(tenant, items)
    this.#size++
  }

  /** The oldest item of the tenant whose turn it is. */
  shift(): T | undefined {
    const [next] = this.#tenants
    if (next === undefined) return undefined
    const [tenant, items] = next
    const item = items.shift()
    this.#tenants.delete(tenant)
    if (items.length > 0) this.#tenants.set(tenant, items)
    this.#size--
    return item
  }

  /** False: it is not here. */
  remove(tenant: string, item: T): boolean {
    const items = this.#tenants.get(tenant)
    const at = items?.indexOf(item) ?? -1
    if (items === undefined || at < 0) return false
    items.splice(at, 1)
    if (items.length === 0) this.#tenants.delete(tenant)
    this.#size--
    return true
  }
}
