/** headProducts: its kernel and launch. */
import type { HeadProductsOptions } from '../attention-options.ts'
import { checkHeadProducts } from '../head-products.ts'
import type { Columns } from '../ops.ts'
import { bind, type GpuContext, Launch, type PreparedOp } from './context.ts'
import type { BindingKind, KernelSource } from './pipelines.ts'

const BINDINGS: readonly BindingKind[] = ['read', 'uniform', 'read', 'read', 'write']
const [THREADS, ROWS] = [64, 8]
const SOURCE: KernelSource = { name: 'head-products', bindings: BINDINGS, defines: { WS: THREADS, ROWS } }

/** Multiplies each head's part of x with the head's vectors, see HeadProductsOptions. */
export function headProducts(context: GpuContext, out: Columns, options: HeadProductsOptions): PreparedOp {
  checkHeadProducts(out, options)
  const { x, numHeads, headDim, count, table } = options
  const [target, source] = [context.activation(out.x), context.activation(x.x)]
  const params = [source.stride, x.offset, target.stride, out.offset, headDim, count]
  const buffers = [source.buffer, context.vector(table).buffer, target.buffer]
  const launch = new Launch(context, SOURCE, bind(context, table.label, BINDINGS, params, buffers))
  return {
    sources: [SOURCE],
    launch: (numRows) =>
      launch.add(
        numHeads * Math.ceil(count / THREADS),
        Math.ceil(numRows / ROWS),
        2 * numRows * numHeads * headDim * count,
      ),
  }
}
