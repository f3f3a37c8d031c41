/** The `serve` command: builds the parts of the server, connects them, listens, and drains on shutdown. */
import { AsyncResource } from 'node:async_hooks'
import { once } from 'node:events'
import { existsSync } from 'node:fs'
import { createServer, type Server } from 'node:http'
import { getRequestListener, RequestError } from '@hono/node-server'
import { type Config, servesLocalModels } from './config.ts'
import { ModelError } from './engine/runner/runner.ts'
import type { CacheConfig, DeviceMemory } from './observability/engine-metrics.ts'
import { availableHostMemory } from './kernels/host-memory.ts'
import { loadEngine, loadRemoteEngine, modelsOf, weightBytesOf } from './model-loading.ts'
import { Observability } from './observability/observability.ts'
import { EventLoopWatch } from './observability/event-loop-watch.ts'
import { loadPlugins } from './observability/plugins.ts'
import { EXPORT_FLUSH_MS, handleCrashes, stopSignal } from './process-events.ts'
import { endedWithin } from './promises.ts'
import { createRag } from './rag/create-rag.ts'
import type { RagService } from './rag/service.ts'
import { ragSettings } from './retrieval-setup.ts'
import type { Log } from './observability/log.ts'
import { createApp } from './server/app.ts'
import { type Connections, trackConnections } from './server/connections.ts'
import { watchKeyFile } from './server/key-file.ts'
import { createKeys, loadSecret } from './server/keys.ts'
import { isLoopback } from './server/origin.ts'
import { createMetricsServer } from './server/metrics-server.ts'
import { refuseMalformed } from './server/middleware.ts'
import { ServerState } from './server/state.ts'

export interface BuildInfo {
  readonly version: string
  readonly revision: string | null
}

/** The caller of a request without an API key; its key id is empty. */
const NOBODY = { keyId: '', isAdmin: false }

/** The server cannot start for a reason outside the program. The CLI prints one line and exits with code 1. */
export class StartError extends Error {
  override readonly name = 'StartError'
}

/** Slow traces exported per minute when only a share of traces is exported. */
const SLOWEST_PER_MINUTE = 10

/** Event loop stalls of at least this length are logged as warnings. A busy machine alone can cause shorter ones. */
const SEVERE_STALL_MS = 1000

/** Longer than the 60 s of common proxies, so that the proxy closes idle connections first and never sends to a closed one. */
const KEEP_ALIVE_MS = 75_000

/** How long closing the models may delay the exit: a driver that compiles a kernel must not be interrupted. */
const ABANDON_MS = 15_000

/** How long closing the stores may delay the exit. */
const CLOSE_MS = 2_000

/** Serves until SIGTERM or SIGINT; returns the exit code. */
export async function serve(config: Config, build: BuildInfo): Promise<number> {
  requireKeys(config)
  const startedMs = performance.now()
  requireModelPath('--embedding-model', config.embeddingModel)
  requireModelPath('--reranker-model', config.rerankerModel)
  const stop = stopSignal(config.isRunByNpm)
  const observability = new Observability({
    serviceVersion: build.revision ?? build.version,
    otlpEndpoint: config.otlpTracesEndpoint,
    traceDetail: config.traceDetail,
    traceStoreSize: config.traceStoreSize,
    leakAfterMs: config.traceLeakMs === 0 ? Infinity : config.traceLeakMs,
    trustRemote: config.trustRemoteTraces,
    captureContent: config.captureContent,
    openInference: config.openInference,
    exportNames: config.exportNames,
    exportSteps: config.exportSteps,
    tailSampling:
      config.traceBaseline < 1
        ? { baseline: config.traceBaseline, ttftMs: config.traceKeepTtftMs, slowestPerMinute: SLOWEST_PER_MINUTE }
        : null,
    logLevel: config.logLevel,
    logFile: config.logFile === '' ? null : config.logFile,
  })
  const { logger } = observability
  const crashes = handleCrashes(observability)
  const plugins = await loadPlugins(config.plugins, observability.subscriberHost)
  let hasStarted = false
  const state = new ServerState((model) => observability.subscribers(plugins, model), {
    idleMs: config.modelIdle === null ? null : config.modelIdle * 1000,
    version: build.revision ?? build.version,
    availableBytes: availableHostMemory,
    onLoaded: (model, ms) => logger.info('model.loaded', { model, duration_ms: Math.round(ms) }),
    onUnloaded: (model, reason) => logger.info('model.unloaded', { model, reason }),
    onLoadFailed: (model, error) => {
      // A load that fails at start-up ends the process with its own message.
      if (hasStarted) logger.error('model.load_failed', { model, error })
    },
  })
  // The driver aborts the process if its thread is taken down while kernels are compiled.
  crashes.closeFirst(() => endedWithin(ABANDON_MS, state.models.close()))
  observability.metrics.observeEngine({
    gauges: () => ({
      ...state.stats(),
      device: deviceMemory(state),
      cache: cacheConfig(state, config.prefixCaching),
    }),
    models: () => state.models.describe(),
    modelName: () => state.engine?.modelName ?? 'none',
  })
  const secret = loadSecret(config.cacheDir)
  const keyFile =
    config.keyFile === null
      ? null
      : watchKeyFile(config.keyFile, (change) => {
          if (typeof change === 'number') logger.info('keys.reloaded', { keys: change })
          else logger.error('keys.reload_failed', { reason: change.message })
        })
  const rag = createRag({
    ...ragSettings(config),
    // Bound to the start-up context: otherwise the log line would carry the trace of the request that started the worker.
    onWorkerDeath: AsyncResource.bind(({ worker, reason, cause }) => {
      logger.warn('rag.worker_died', { worker, reason, error: cause })
    }),
    onRerankFailure: (reason) => {
      observability.metrics.counters.rerankSkips.inc({ reason })
      logger.warn('rag.rerank_skipped', { reason })
    },
  })
  const watch = new EventLoopWatch((stall) => {
    observability.metrics.counters.stalls.inc({ route: stall.route })
    logger[stall.durationMs < SEVERE_STALL_MS ? 'info' : 'warn']('event_loop.stalled', {
      route: stall.route,
      duration_ms: Math.round(stall.durationMs),
    })
  })
  const app = createApp({
    state,
    watch,
    observability,
    keys: createKeys({ keys: config.apiKeys, adminKey: config.adminKey, secret, fileKeys: keyFile?.keys ?? null }),
    rag,
    version: build.version,
    revision: build.revision,
    settings: {
      host: config.host,
      corsOrigins: config.corsOrigins,
      maxQueuedRequests: config.maxQueuedRequests,
      maxRequestBytes: config.maxRequestBytes,
      requestTimeoutMs: config.requestTimeoutMs,
      defaultSeed: config.seed,
      maxNumSeqs: config.maxNumSeqs,
    },
  })
  const listener = getRequestListener(app.fetch, {
    overrideGlobalObjects: false,
    errorHandler: (error) =>
      error instanceof RequestError ? refuseMalformed(observability) : new Response(null, { status: 500 }),
  })
  const server = createServer(listener)
  // Node would send 100 Continue by itself; this server sends it only after it has admitted the request.
  server.on('checkContinue', (request, response) => server.emit('request', request, response))
  server.keepAliveTimeout = KEEP_ALIVE_MS
  const connections = trackConnections(server)
  const metricsServer =
    config.metricsPort === null ? null : createMetricsServer((accept) => observability.metrics.render(accept, NOBODY))
  let hasFailed = false
  let onFatal: (reason: string) => void = () => {}
  try {
    const url = await listen(server, config.host, config.port, '--port')
    // Probes are answered from here on, while the models load.
    logger.info('server.listening', { url })
    if (metricsServer !== null) {
      const at = await listen(metricsServer, config.host, config.metricsPort ?? 0, '--metrics-port')
      logger.info('server.metrics_ready', { url: at })
    }
    const fatal = new Promise<never>((_, reject) => {
      onFatal = (reason) => {
        if (config.onFatal === 'exit') reject(new StartError(`the engine cannot go on: ${reason}`))
      }
    })
    fatal.catch(() => {})
    const reading = rag.readDefaultIndex()
    const loading = loadModels(config, logger, state, (reason) => onFatal(reason))
    // A stop signal must not wait for a large model to load.
    const loaded = await Promise.race([loading, stop.requested])
    if (loaded === 'stop') {
      await endedWithin(ABANDON_MS, state.models.close())
      return 0
    }
    await Promise.race([reading, stop.requested])
    watch.start()
    state.ready()
    hasStarted = true
    const { engine } = state
    logger.info('server.ready', { url, model: engine?.modelName, device: engine?.modelInfo?.device.kind ?? 'remote' })
    process.stderr.write(`${readyLine(url, state, performance.now() - startedMs)}\n`)
    void rag.warm()
    await Promise.race([stop.requested, fatal])
    return 0
  } catch (error) {
    hasFailed = true
    throw error
  } finally {
    // A failed start is reported in one message, so its shutdown is logged at debug level.
    const logLevel = hasFailed ? 'debug' : 'info'
    watch.close()
    keyFile?.close()
    await shutDown({ config, state, server, connections, rag, observability, logLevel })
    metricsServer?.close()
    metricsServer?.closeAllConnections()
    stop.release()
    crashes.release()
  }
}

/** @throws StartError when the server would listen beyond this machine without API keys and without --insecure. */
function requireKeys({ host, apiKeys, keyFile, insecure }: Config): void {
  if (apiKeys.length > 0 || keyFile !== null || insecure || isLoopback(host)) return
  throw new StartError(
    `--host ${host}: expected a key (MINISERVE_API_KEY, --api-key or --key-file) for an address that others can reach; --insecure serves them all without one`,
  )
}

/** Checks that a value that looks like a path exists: such a value is never looked up on the hub. @throws StartError */
function requireModelPath(flag: string, value: string | null): void {
  if (value === null || existsSync(value) || !/^[./~]|\\|^[A-Za-z]:/.test(value)) return
  throw new StartError(`${flag} ${value}: no such folder or file`)
}

/** Device memory of all local engines together, which share one device; null for remote engines and while models load. */
function deviceMemory({ models }: ServerState): DeviceMemory | null {
  const [first, ...others] = models.engines.flatMap(({ modelInfo }) => modelInfo ?? [])
  if (first === undefined) return null
  const memory = { kind: first.device.kind, ...first.memory }
  for (const { memory: more } of others) {
    memory.weightBytes += more.weightBytes
    memory.kvCacheBytes += more.kvCacheBytes
    memory.scratchBytes += more.scratchBytes
  }
  return memory
}

function cacheConfig(state: ServerState, prefixCaching: boolean): CacheConfig | null {
  const info = state.engine?.modelInfo
  return info ? { blockSize: info.blockSize, prefixCaching } : null
}

interface Running {
  readonly config: Config
  readonly state: ServerState
  readonly server: Server
  readonly connections: Connections
  readonly rag: RagService
  readonly observability: Observability
  /** Level of the log lines about the shutdown. */
  readonly logLevel: 'debug' | 'info'
}

/** Refuses new requests, lets running ones finish, then closes everything. Each step has a time limit. */
async function shutDown(running: Running): Promise<void> {
  const { config, state, server, connections, rag, observability, logLevel } = running
  state.drain()
  const deadline = performance.now() + config.shutdownTimeoutMs
  const { numRunning, numWaiting } = state.stats()
  observability.logger[logLevel]('server.draining', { running: numRunning, waiting: numWaiting })
  const numOpen = numRunning + numWaiting
  if (numOpen > 0) {
    const seconds = config.shutdownTimeoutMs / 1000
    process.stderr.write(
      `miniserve: stopping; ${numOpen} ${numOpen === 1 ? 'request runs' : 'requests run'} for at most ${seconds} s more. Ctrl-C again ends them now.\n`,
    )
  }
  await state.models.drain(config.shutdownTimeoutMs)
  // The last frames of finished streams may not have reached their sockets yet, so connections close gracefully.
  const closed = server.listening ? new Promise<void>((resolve) => server.close(() => resolve())) : Promise.resolve()
  connections.closeIdle()
  const timer = setTimeout(() => server.closeAllConnections(), Math.max(deadline - performance.now(), 0) + 500)
  await closed
  clearTimeout(timer)
  // Each with a limit: a store may not answer, and the driver may still be compiling kernels.
  await Promise.all([endedWithin(ABANDON_MS, state.models.close()), endedWithin(CLOSE_MS, rag.close())])
  // All counts are zero unless something leaked; the end-to-end tests check this.
  const open = observability.open()
  observability.logger[logLevel]('server.stopped', {
    open_requests: open.requests,
    open_spans: open.spans,
    open_engine: open.engine,
  })
  await observability.shutdown(EXPORT_FLUSH_MS, { logLevel })
}

const NO_LISTENER: Readonly<Record<string, string>> = {
  EACCES: 'this user may not listen on that port',
  EADDRNOTAVAIL: 'the address is not one of this machine',
  ENOTFOUND: 'no host of that name',
  EAI_AGAIN: 'no host of that name',
}

async function listen(server: Server, host: string, wanted: number, flag: string): Promise<string> {
  server.listen(wanted, host)
  try {
    await once(server, 'listening')
  } catch (error) {
    const code = error instanceof Error && 'code' in error ? String(error.code) : String(error)
    const why = code === 'EADDRINUSE' ? `the port is taken; ${flag} 0 takes any free one` : (NO_LISTENER[code] ?? code)
    throw new StartError(`cannot listen on ${host}:${wanted}: ${why}`, { cause: error })
  }
  const address = server.address()
  const port = typeof address === 'object' && address !== null ? address.port : wanted
  return `http://${host.includes(':') ? `[${host}]` : host}:${port}`
}

function readyLine(url: string, { engine, models }: ServerState, ms: number): string {
  const device = engine?.modelInfo?.device
  const where = device ? `${device.kind} (${device.adapter})` : 'a remote engine'
  const names = models
    .describe()
    .flatMap(({ name, state, adapters }) => [
      state === 'ready' ? name : `${name} (on demand)`,
      ...adapters.map((adapter) => adapter.name),
    ])
  return `miniserve ready on ${url} with ${names.join(', ')} on ${where}, after ${(ms / 1000).toFixed(1)} s`
}

/**
 * Registers every model, then loads all of them, or only the first when idle models are to be unloaded. Remote engines come first: theirs is the
 * default model.
 * @throws ModelError
 */
async function loadModels(
  config: Config,
  logger: Log,
  { models }: ServerState,
  onFatal: (reason: string) => void,
): Promise<void> {
  const local = servesLocalModels(config) ? modelsOf(config) : []
  if (config.lora.length > 0 && local.length === 0)
    throw new ModelError('--lora: expected a model of this process; engines elsewhere serve adapters of their own')
  if (config.engineUrls.length > 0) {
    const remote = await loadRemoteEngine(config, logger)
    const name = remote.engine.modelName
    if (local.some((model) => [model, ...model.adapters].some((own) => own.name === name)))
      throw new ModelError(
        `--engine-url: its model is called ${name}, as one of this process; name yours apart: NAME=PATH`,
      )
    models.add(remote)
  }
  for (const model of local) {
    models.offer({
      name: model.name,
      adapters: model.adapters,
      weightBytes: () => weightBytesOf(model),
      wantsRoom: (error) => error instanceof ModelError && error.isOfDevice,
      load: (signal) => loadEngine(config, model, logger, { onFatal, signal }),
    })
  }
  for (const { name } of config.modelIdle === null ? local : local.slice(0, 1)) await models.load(name)
}
