import { spawnSync } from 'node:child_process'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { play, testObservability, type TestObservability } from '../../test/observability/scenario.ts'

let observability: TestObservability
beforeEach(async () => {
  observability = testObservability()
  observability.metrics.observeEngine({
    gauges: () => ({
      numRunning: 2,
      numWaiting: 1,
      numBlocks: 100,
      numFreeBlocks: 75,
      device: { kind: 'cpu', weightBytes: 300, kvCacheBytes: 200, scratchBytes: 100 },
      cache: { blockSize: 16, prefixCaching: true },
    }),
    models: () => [
      {
        name: 'tiny',
        state: 'ready',
        stats: { numRunning: 2, numWaiting: 1, numBlocks: 8, numFreeBlocks: 6, numHeldStateSlots: 3 },
      },
      { name: 'other', state: 'on_demand', stats: null },
    ],
    modelName: () => 'tiny',
  })
  for (let i = 0; i < 2; i++) {
    const { trace } = await play(observability, 'formatting', { input: { keyId: 'abc' }, plan: { choices: 2, n: 2 } })
    trace.finish({ ending: 'success', status: 200 })
  }
  const failed = await play(observability, 'opened')
  failed.trace.finish({ ending: 'refused', status: 429 })
})
afterEach(() => observability.shutdown(100))

const OPENMETRICS = 'application/openmetrics-text; version=1.0.0'

describe('/metrics', () => {
  it("counts under vLLM's names", async () => {
    const { body, contentType } = await observability.metrics.render(undefined)
    expect(contentType).toContain('text/plain')
    const lines = body.split('\n')
    for (const line of [
      'miniserve_num_requests_running 2',
      'miniserve_num_requests_waiting 1',
      'miniserve_kv_cache_usage_perc 0.25',
      'miniserve_model_state_slots_held{model_name="tiny"} 3',
      'miniserve_device_memory_bytes{device="cpu",use="weights"} 300',
      'miniserve_device_memory_bytes{device="cpu",use="kv_cache"} 200',
      'miniserve_device_memory_bytes{device="cpu",use="scratch"} 100',
      'miniserve_prompt_tokens_total{model_name="tiny"} 24',
      'miniserve_generation_tokens_total{model_name="tiny"} 16',
      'miniserve_key_tokens_total{model_name="tiny",key_id="abc",direction="out"} 16',
      'miniserve_prefix_cache_queries_total{model_name="tiny"} 24',
      'miniserve_prefix_cache_hits_total{model_name="tiny"} 8',
      'miniserve_request_success_total{model_name="tiny",finished_reason="length"} 4',
      'miniserve_requests_total{route="/v1/completions",status="429",ending="refused"} 1',
      'miniserve_inter_token_latency_seconds_count{model_name="tiny"} 12',
      'miniserve_inter_token_latency_seconds_bucket{le="0.01",model_name="tiny"} 12',
      'miniserve_time_to_first_token_seconds_count{model_name="tiny"} 2',
      'miniserve_cache_config_info{model_name="tiny",block_size="16",num_gpu_blocks="100",enable_prefix_caching="True"} 1',
      'miniserve_spans_created_total 11',
      'miniserve_spans_unsampled_total 11',
    ]) {
      expect(lines).toContain(line)
    }
    for (const name of [
      'e2e_request_latency',
      'request_queue_time',
      'request_prefill_time',
      'request_decode_time',
      'event_loop_lag_p99',
    ]) {
      expect(body).toContain(`# TYPE miniserve_${name}_seconds`)
    }
    expect(body).toContain('# TYPE gen_ai_server_time_to_first_token_seconds histogram')
    expect(body).not.toContain('trace_id')
  })

  it('counts the tokens of every step of the engine', async () => {
    const step = { type: 'step', stepId: 1, startMs: 0, atMs: 1, numRows: 3, numPrefillTokens: 60, numDecodeTokens: 2, numRunning: 3, numWaiting: 0, numFreeBlocks: 1, numBlocks: 1, gpuMicros: null, kernels: null, requestIds: [] } as const // prettier-ignore
    for (const { onEvent } of observability.subscribers([], 'tiny')) onEvent(step)
    const { body } = await observability.metrics.render(undefined)
    expect(body).toContain('miniserve_iteration_tokens_total_bucket{le="32",model_name="tiny"} 0')
    expect(body).toContain('miniserve_iteration_tokens_total_bucket{le="64",model_name="tiny"} 1')
    expect(body).toContain('miniserve_iteration_tokens_total_sum{model_name="tiny"} 62')
  })

  it('tells of other keys to the admin alone', async () => {
    const { trace } = await play(observability, 'formatting', { input: { keyId: 'xyz' } })
    trace.finish({ ending: 'success', status: 200 })
    const third = await play(observability, 'formatting', { input: { keyId: 'uvw' } })
    third.trace.finish({ ending: 'success', status: 200 })
    const keyLines = async (viewer?: { keyId: string; isAdmin: boolean }) =>
      (await observability.metrics.render(undefined, viewer)).body
        .split('\n')
        .filter((line) => line.includes('key_id=') && line.includes('direction="out"'))
    expect(await keyLines({ keyId: 'root', isAdmin: true })).toHaveLength(3)
    expect(await keyLines({ keyId: 'abc', isAdmin: false })).toEqual([
      'miniserve_key_tokens_total{model_name="tiny",key_id="abc",direction="out"} 16',
      'miniserve_key_tokens_total{model_name="tiny",key_id="others",direction="out"} 8',
    ])
    expect((await observability.metrics.render(undefined, { keyId: 'abc', isAdmin: false })).body).not.toMatch(
      /xyz|uvw/,
    )
  })

  it('speaks OpenMetrics with exemplars that name stored traces when asked to', async () => {
    const { body, contentType } = await observability.metrics.render(OPENMETRICS)
    expect(contentType).toContain('application/openmetrics-text')
    expect(body.endsWith('# EOF\n')).toBe(true)
    expect(body).toContain('# TYPE miniserve_prompt_tokens counter\n')
    expect(body).toContain('miniserve_prompt_tokens_total{model_name="tiny"} 24')
    const exemplar =
      /^miniserve_time_to_first_token_seconds_bucket\{.*\} \d+ # \{trace_id="([0-9a-f]{32})"\} [\d.e-]+ [\d.]+$/m.exec(
        body,
      )
    expect(observability.store.get(exemplar?.[1] ?? '', { keyId: 'abc', isAdmin: false })).toHaveLength(1)
    // The two formats come from the same numbers, one after the other and at once.
    const [text, open] = await Promise.all([
      observability.metrics.render(undefined),
      observability.metrics.render(OPENMETRICS),
    ])
    expect(text.body).toContain('# TYPE miniserve_prompt_tokens_total counter\n')
    expect(open.body).toContain('# TYPE miniserve_prompt_tokens counter\n')
  })

  const promtool = spawnSync('promtool', ['--version']).status === 0
  it.skipIf(!promtool)(`passes promtool check metrics${promtool ? '' : ' (skipped: no promtool)'}`, async () => {
    const { body } = await observability.metrics.render(undefined)
    const check = spawnSync('promtool', ['check', 'metrics'], { input: body, encoding: 'utf8' })
    // Advice on names (exit 3) aside: those are vLLM's and the conventions'.
    expect(check.status === 0 || check.status === 3, check.stderr).toBe(true)
    expect(check.stderr).not.toMatch(/error while/i)
  })
})
