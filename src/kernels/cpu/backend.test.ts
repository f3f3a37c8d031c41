import { describeBackend } from '../../../test/kernels/conformance.ts'
import { createCpuBackend } from './backend.ts'

// The kernels round activations to int8, 255 steps per block of 32; the reference does not. The relative squared error is about 3e-5.
const tolerances = { quantized: 5e-4 }

describeBackend('cpu', (options) => createCpuBackend({ ...options, threads: 2 }), { tolerances })

if (process.env.MINISERVE_TEST_LEVEL === 'full') {
  describeBackend('cpu, one thread', (options) => createCpuBackend({ ...options, threads: 1 }), { tolerances })
  describeBackend('cpu, dot products', (options) => createCpuBackend({ ...options, threads: 2, kernels: 'dots' }), {
    tolerances,
  })
  const plain = { kvFormat: 'f32', threads: 3, kernels: 'plain' } as const
  describeBackend('cpu, plain SIMD, f32 KV', (options) => createCpuBackend({ ...plain, ...options }), { tolerances })
}
