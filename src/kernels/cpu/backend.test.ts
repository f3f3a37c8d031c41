import { describeBackend } from '../../../test/kernels/conformance.ts'
import { createCpuBackend } from './backend.ts'

describeBackend('cpu', (options) => createCpuBackend({ ...options, threads: 2 }), { tolerances: { quantized: 5e-4 } })
