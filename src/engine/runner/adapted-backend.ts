/**
 * A backend with a `linear` that also adds the updates of adapters (LoRA, arXiv 2106.09685). The parts of a layer are written against `Backend`, so that
 * every kind of layer gets its updates without knowing of them. A product of gate and up projection is updated before both halves are combined.
 */
import type { Backend } from '../../kernels/backend.ts'
import type { Activation, LinearOptions, Matrix } from '../../kernels/ops.ts'
import type { BackendParameters } from './parameters.ts'

/** Adds a model's adapters to the products that its layers compute. */
export class AdaptedBackend {
  /** Records the layers' ops. */
  readonly backend: Backend
  readonly #inner: Backend
  readonly #parameters: BackendParameters
  #addsUpdates = false

  constructor(inner: Backend, parameters: BackendParameters) {
    this.#inner = inner
    this.#parameters = parameters
    const linear: Backend['linear'] = (...call) => this.#linear(...call)
    const methods = new Map<PropertyKey, unknown>([['linear', linear]])
    this.backend = new Proxy(inner, {
      get(target, name) {
        const value: unknown = methods.get(name) ?? Reflect.get(target, name, target)
        if (typeof value !== 'function' || methods.has(name)) return value
        // Methods are bound to the backend, which has the private fields. They are bound once, since steps call hundreds of ops.
        const bound: unknown = value.bind(target)
        methods.set(name, bound)
        return bound
      },
    })
  }

  /** Calls `ops`. @param addsUpdates the step names adapters; it counts until the next call, so every op of a step runs in one */
  during(addsUpdates: boolean, ops: () => void): void {
    this.#addsUpdates = addsUpdates
    ops()
  }

  #linear(out: Activation, x: Activation, w: Matrix, options: LinearOptions): void {
    const inner = this.#inner
    const { norm, bias, residual = false, glu, activation } = options
    const update = this.#parameters.lowRankOf(w)
    if (glu === undefined && (activation === undefined || update === null)) {
      inner.linear(out, x, w, options)
      if (update !== null && this.#addsUpdates) inner.addLowRank(out, x, update, norm)
      return
    }
    const product = this.#parameters.activation('unjoined', w.rows)
    inner.linear(product, x, w, { norm, bias })
    if (update !== null && this.#addsUpdates) inner.addLowRank(product, x, update, norm)
    if (glu !== undefined) inner.activate(out, product, { glu, residual })
    else if (activation !== undefined) inner.activate(out, product, { activation, residual })
  }
}
