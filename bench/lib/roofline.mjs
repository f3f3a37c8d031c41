// What an adapter reaches by itself, in the process that measures kernels: bytes a second of a streaming read, and floating-point operations a
// second of chains of multiply-add. Several texts of each are tried and the best counts: how far a compiler unrolls, and how many values it
// keeps in registers, differs by a factor of two.

/** @param lanes threads of a workgroup, each reading vec4s that are `lanes` apart */
const streamText = (lanes) => `
@group(0) @binding(0) var<storage, read> data: array<vec4<u32>>;
@group(0) @binding(1) var<storage, read_write> out: array<u32>;
@compute @workgroup_size(${lanes})
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
  var sum = vec4<u32>(0u);
  for (var i = 0u; i < 64u; i++) {
    let at = (group.x * 64u + i) * ${4 * lanes}u + lane;
    sum ^= data[at] ^ data[at + ${lanes}u] ^ data[at + ${2 * lanes}u] ^ data[at + ${3 * lanes}u];
  }
  out[group.x * ${lanes}u + lane] = sum.x ^ sum.y ^ sum.z ^ sum.w;
}`

/** `accumulators` chains of vec4s, `unrolled` steps of each in the loop's body, 256 steps in all. */
const fmaText = (lanes, accumulators, unrolled) => {
  const names = Array.from({ length: accumulators }, (_, i) => `a${i}`)
  const steps = names.map((name) => `    ${name} = fma(${name}, vec4<f32>(f), vec4<f32>(0.25));`).join('\n')
  // The number of steps depends on the data, so that no compiler knows it.
  return `
@group(0) @binding(0) var<storage, read> data: array<vec4<u32>>;
@group(0) @binding(1) var<storage, read_write> out: array<u32>;
@compute @workgroup_size(${lanes})
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
  let f = 1.0 + f32(lane) * 1e-7;
${names.map((name, i) => `  var ${name} = vec4<f32>(${i}.5);`).join('\n')}
  let end = ${256 / unrolled}u + data[0].x % 2u;
  for (var i = 0u; i < end; i++) {
${Array.from({ length: unrolled }, () => steps).join('\n')}
  }
  let sum = ${names.join(' + ')};
  out[group.x * ${lanes}u + lane] = bitcast<u32>(sum.x + sum.y + sum.z + sum.w);
}`
}

/** [accumulators, steps unrolled] */
const FMA_TEXTS = [
  [8, 1],
  [8, 4],
  [4, 8],
  [2, 16],
]

/**
 * @returns the best of `rounds` of each: { gigabytesPerSecond, gigaflopsPerSecond }
 */
export async function measureRoofline(device, isSoftware, rounds) {
  const lanes = isSoftware ? 8 : 256
  const bytes = Math.min(isSoftware ? 64 << 20 : 1 << 30, device.limits.maxStorageBufferBindingSize)
  const bytesPerGroup = 256 * lanes * 16
  const streamGroups = Math.floor(bytes / bytesPerGroup)
  const fmaGroups = isSoftware ? 4096 : 16384
  const data = device.createBuffer({ size: bytes, usage: GPUBufferUsage.STORAGE })
  const out = device.createBuffer({
    size: Math.max(streamGroups, fmaGroups) * lanes * 4,
    usage: GPUBufferUsage.STORAGE,
  })
  const bestSeconds = async (code, groups) => {
    const pipeline = device.createComputePipeline({
      layout: 'auto',
      compute: { module: device.createShaderModule({ code }) },
    })
    const group = device.createBindGroup({
      layout: pipeline.getBindGroupLayout(0),
      entries: [data, out].map((buffer, binding) => ({ binding, resource: { buffer } })),
    })
    let seconds = Infinity
    for (let round = 0; round <= rounds; round++) {
      const encoder = device.createCommandEncoder()
      const pass = encoder.beginComputePass()
      pass.setPipeline(pipeline)
      pass.setBindGroup(0, group)
      pass.dispatchWorkgroups(groups)
      pass.end()
      const started = performance.now()
      device.queue.submit([encoder.finish()])
      await device.queue.onSubmittedWorkDone()
      seconds = Math.min(seconds, (performance.now() - started) / 1000)
    }
    return seconds
  }
  try {
    const gigabytesPerSecond =
      (streamGroups * bytesPerGroup) / (await bestSeconds(streamText(lanes), streamGroups)) / 1e9
    let gigaflopsPerSecond = 0
    for (const [accumulators, unrolled] of FMA_TEXTS) {
      const operations = fmaGroups * lanes * 256 * accumulators * 4 * 2
      const seconds = await bestSeconds(fmaText(lanes, accumulators, unrolled), fmaGroups)
      gigaflopsPerSecond = Math.max(gigaflopsPerSecond, operations / seconds / 1e9)
    }
    return { gigabytesPerSecond, gigaflopsPerSecond }
  } finally {
    data.destroy()
    out.destroy()
  }
}
