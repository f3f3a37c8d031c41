import { describe, expect, it } from 'vitest'
import { ConfigError, parseCommandLine } from './config.ts'
import { helpText } from './config-help.ts'
import { SETTINGS } from './settings/settings.ts'

const parse = (argv: string[], env: Record<string, string> = {}) => parseCommandLine(argv, { HOME: '/home/u', ...env })

describe('parseCommandLine', () => {
  it('has defaults for everything', () => {
    const { command, config } = parse([])
    expect(command).toBe('serve')
    expect(config).toMatchObject({
      host: '127.0.0.1',
      port: 8000,
      device: 'auto',
      maxNumSeqs: 64,
      blockSize: 16,
      prefixCaching: true,
      speculation: true,
      requestTimeoutMs: 600_000,
      shutdownTimeoutMs: 25_000,
      traceDetail: 'contract',
      otlpTracesEndpoint: null,
      cacheDir: '/home/u/.cache/miniserve',
      hfHubCache: '/home/u/.cache/huggingface/hub',
    })
    expect(Object.isFrozen(config)).toBe(true)
  })

  it('lets a flag win over the environment and the environment over the default', () => {
    expect(parse([], { PORT: '9000' }).config.port).toBe(9000)
    expect(parse(['--port', '9001'], { PORT: '9000' }).config.port).toBe(9001)
    expect(parse(['--port=0']).config.port).toBe(0)
  })

  it('takes words in any case', () => {
    expect(parse([], { LOG_LEVEL: 'INFO' }).config.logLevel).toBe('info')
    expect(parse(['--device', 'WebGPU']).config.device).toBe('webgpu')
  })

  it('reads repeated flags and comma lists', () => {
    expect(parse(['--api-key', 'a', '--api-key', 'b']).config.apiKeys).toEqual(['a', 'b'])
    expect(parse([], { MINISERVE_API_KEY: 'a, b' }).config.apiKeys).toEqual(['a', 'b'])
  })

  it('reads negated switches, sizes and seconds', () => {
    const { config } = parse(['--no-prefix-caching', '--kv-host-memory', '1.5G', '--shutdown-timeout', '0.5'])
    expect(config).toMatchObject({ prefixCaching: false, kvHostMemoryBytes: 1.5 * 1024 ** 3, shutdownTimeoutMs: 500 })
  })

  it('turns tracing off by the two variables, unless a flag asks for it', () => {
    expect(parse([], { OTEL_SDK_DISABLED: 'true' }).config.traceDetail).toBe('off')
    expect(parse([], { MINISERVE_TRACES_ENABLED: 'false' }).config.traceDetail).toBe('off')
    expect(parse(['--trace-detail', 'steps'], { OTEL_SDK_DISABLED: 'true' }).config.traceDetail).toBe('steps')
  })

  it('falls back to the general OTLP endpoint', () => {
    const env = { OTEL_EXPORTER_OTLP_ENDPOINT: 'http://a:4317' }
    expect(parse([], env).config.otlpTracesEndpoint).toBe('http://a:4317')
    expect(parse(['--otlp-traces-endpoint', 'http://b:4317'], env).config.otlpTracesEndpoint).toBe('http://b:4317')
  })

  it('knows the commands', () => {
    expect(parse(['serve']).command).toBe('serve')
    expect(parse(['help']).command).toBe('help')
    expect(parse(['version']).command).toBe('version')
    expect(parse(['rag', 'index', 'docs', 'more', '--rag-index', 'x'])).toMatchObject({
      command: 'rag index',
      positionals: ['docs', 'more'],
      config: { ragIndex: 'x' },
    })
    expect(parse(['trace', 'convert', 'f.json', '--to', 'jaeger'])).toMatchObject({
      command: 'trace convert',
      positionals: ['f.json'],
      to: 'jaeger',
    })
  })

  it.each([
    [['--prot', '1'], /unknown flag --prot; did you mean --port\?/],
    [['--kv-dir', 'a'], /unknown flag --kv-dir; did you mean --kv-cache-dir\?/],
    [['--otlp', 'a'], /unknown flag --otlp; did you mean --otlp-traces-endpoint\?/],
    [['--xylophone'], /unknown flag --xylophone \(--help/],
    [['--zzzzzzzz'], /unknown flag --zzzzzzzz \(--help lists the flags\)/],
    [['--api-key', '--port', '1'], /--api-key: expected a value, found none/],
    [['--api-key', 'sécret'], /^--api-key: expected a key of ASCII characters, found another$/],
    [
      ['--kv-cache-memory', '1.5'],
      /--kv-cache-memory: expected a size such as 4G, or a share such as 0.8, found "1.5"/,
    ],
    [['--kv-cache-memory', '0'], /--kv-cache-memory: expected a size/],
    [['--kv-host-memory', '0.5'], /--kv-host-memory: expected a size such as 512M or 2G, found "0.5"/],
    [['-p', '5'], /^-p: expected with bench, found with serve$/],
    [['--strict'], /^--strict: expected with rag index, found with serve$/],
    [['trace', 'validate', 'x', '--to', 'otlp'], /^--to: expected with trace convert, found with trace validate$/],
    [['--seed', '-1'], /--seed: expected at least 0, found "-1"/],
    [['--port', 'abc'], /--port: expected a whole number, found "abc"/],
    [['--port', '70000'], /--port: expected at most 65535/],
    [['--device', 'gpu'], /--device: expected one of auto, webgpu, cpu, reference, found "gpu"/],
    [['--run-ahead', '2'], /--run-ahead/],
    [['srve'], /unknown command "srve": expected one of serve, rag index/],
    [['rag'], /unknown command "rag": expected rag index$/],
    [['eval', 'x'], /expected one of eval perplexity, eval choices$/],
    [['trace', 'convert', 'f', '--to', 'xml'], /--to: expected one of otlp/],
    [['--port'], /--port/],
  ])('refuses %j in one line that names it', (argv, message) => {
    expect(() => parse(argv)).toThrow(ConfigError)
    expect(() => parse(argv)).toThrow(message)
    try {
      parse(argv)
    } catch (error) {
      expect(String(error)).not.toContain('\n')
    }
  })

  it.each([
    ...[
      'mysql://u:SECRET@db/rag',
      'u:SECRET@db/rag',
      'host=db user=u password=SECRET dbname=rag',
      'postgres://u:SEC RET@db/rag',
      'jdbc:postgresql://db/rag?user=u&password=SECRET',
    ].map((value) => ['--rag-store-url', value] as const),
    ...['http://u:p@SECRET@host/?q', 'u:SECRET@host', 'https://u:SEC RET@host/v1', 'https://host/v1?key=SECRET'].map(
      (value) => ['--engine-url', value] as const,
    ),
    ['--otlp-traces-endpoint', 'u:SECRET@host'] as const,
    ['--cors-origin', 'https://u:SEC RET@host/x'] as const,
  ])('refuses %s %s without quoting it', (flag, value) => {
    expect(() => parse([flag, value])).toThrow(new RegExp(`^${flag}: expected [^@]*, found another$`))
  })

  it('does not quote a refused URL of a variable either', () => {
    expect(() => parse([], { HF_ENDPOINT: 'u:SECRET@hub' })).toThrow(/^HF_ENDPOINT: expected .*, found another$/)
  })

  it.each(['postgresql://db/rag', '/var/run/postgresql', '/var/run/postgresql rag', 'socket:/var/run/?db=rag'])(
    'takes the database %s, as pg does',
    (value) => {
      expect(parse(['--rag-store-url', value]).config.ragStoreUrl).toBe(value)
    },
  )

  it('reads origins as browsers send them, and refuses what could never match', () => {
    const origins = (...values: string[]) =>
      parse(values.flatMap((value) => ['--cors-origin', value])).config.corsOrigins
    expect(origins('http://localhost:3000/', 'HTTPS://App.Test', '*')).toEqual([
      'http://localhost:3000',
      'https://app.test',
      '*',
    ])
    for (const value of ['localhost:3000', 'http://app.test/path', 'file:///x', 'app.test'])
      expect(() => origins(value), value).toThrow(/--cors-origin: expected an origin such as/)
  })

  it('names the variable when the environment is wrong', () => {
    expect(() => parse([], { LOG_LEVEL: 'loud' })).toThrow(/LOG_LEVEL: expected one of/)
  })

  it('describes every flag in --help', () => {
    const help = helpText()
    for (const setting of SETTINGS) expect(help).toContain(setting.flag ? `--${setting.flag}` : setting.env)
  })
})
