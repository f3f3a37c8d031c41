/** deploy/k8s: every folder that kustomize can build is put together here, and each object held against the schema of its kind. */
import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { join, relative } from 'node:path'
import { fileURLToPath } from 'node:url'
import { HTTPRoute } from '@kubernetes-models/gateway-api/gateway.networking.k8s.io/v1'
import { ServiceMonitor } from '@kubernetes-models/prometheus-operator/monitoring.coreos.com/v1'
import { Deployment } from 'kubernetes-models/apps/v1'
import { HorizontalPodAutoscaler } from 'kubernetes-models/autoscaling/v2'
import { NetworkPolicy } from 'kubernetes-models/networking.k8s.io/v1'
import { PodDisruptionBudget } from 'kubernetes-models/policy/v1'
import { PersistentVolumeClaim, Service } from 'kubernetes-models/v1'
import { describe, expect, it } from 'vitest'
import { parse, parseAllDocuments } from 'yaml'
import { z } from 'zod'
import { SETTINGS } from '../src/settings/settings.ts'

const root = fileURLToPath(new URL('../deploy/k8s/', import.meta.url))

interface Manifest {
  readonly kind: string
  readonly metadata: { readonly name: string }
  readonly spec: Record<string, unknown>
}
interface Operation {
  readonly op: 'add' | 'replace'
  readonly path: string
  readonly value: unknown
}
interface Kustomization {
  readonly resources: readonly string[]
  readonly patches?: readonly {
    readonly target: { readonly kind: string; readonly name: string }
    readonly patch: string
  }[]
}

/** The inference extension's own published fields (inference.networking.k8s.io/v1), as far as they are used. */
const inferencePool = z.strictObject({
  apiVersion: z.literal('inference.networking.k8s.io/v1'),
  kind: z.literal('InferencePool'),
  metadata: z.object({ name: z.string() }),
  spec: z.strictObject({
    selector: z.strictObject({ matchLabels: z.record(z.string(), z.string()) }),
    targetPorts: z
      .array(z.strictObject({ number: z.int().min(1).max(65_535) }))
      .min(1)
      .max(8),
    endpointPickerRef: z.strictObject({
      name: z.string(),
      port: z.strictObject({ number: z.int() }),
      failureMode: z.enum(['FailOpen', 'FailClose']),
    }),
  }),
})

const MODELS: Readonly<Record<string, new (data: never) => { validate(): void }>> = {
  Deployment,
  Service,
  PersistentVolumeClaim,
  NetworkPolicy,
  PodDisruptionBudget,
  HorizontalPodAutoscaler,
  HTTPRoute,
  ServiceMonitor,
}

function validate(manifest: Manifest): void {
  if (manifest.kind === 'InferencePool') {
    inferencePool.parse(manifest)
    return
  }
  const Model = MODELS[manifest.kind]
  if (Model === undefined) throw new Error(`no schema for ${manifest.kind}`)
  new Model(manifest as never).validate()
}

/** One operation of a JSON patch (RFC 6902). */
function apply(target: unknown, { op, path, value }: Operation): void {
  const keys = path
    .slice(1)
    .split('/')
    .map((key) => key.replaceAll('~1', '/').replaceAll('~0', '~'))
  const last = keys.pop() ?? ''
  const parent = keys.reduce<unknown>((at, key) => Reflect.get(at as object, key), target)
  if (typeof parent !== 'object' || parent === null) throw new Error(`${path} leads nowhere`)
  if (Array.isArray(parent) && last === '-') parent.push(value)
  else if (op === 'replace' && !(last in parent)) throw new Error(`${path} is not there to replace`)
  else Reflect.set(parent, last, value)
}

/** What `kubectl kustomize FOLDER` would print. */
function build(folder: string): Manifest[] {
  const { resources, patches = [] } = parse(readFileSync(join(folder, 'kustomization.yaml'), 'utf8')) as Kustomization
  const manifests = resources.flatMap((resource) => {
    const path = join(folder, resource)
    return resource.endsWith('.yaml')
      ? parseAllDocuments(readFileSync(path, 'utf8')).map((document) => document.toJS() as Manifest)
      : build(path)
  })
  for (const { target, patch } of patches) {
    const found = manifests.find(({ kind, metadata }) => kind === target.kind && metadata.name === target.name)
    if (found === undefined)
      throw new Error(`${relative(root, folder)} patches ${target.kind} ${target.name}, which is not there`)
    for (const operation of parse(patch) as Operation[]) apply(found, operation)
  }
  return manifests
}

const folders = readdirSync(root, { recursive: true, withFileTypes: true })
  .filter(({ name }) => name === 'kustomization.yaml')
  .map(({ parentPath }) => parentPath)

describe.each(folders.map((folder) => [relative(root, folder), folder] as const))('%s', (_, folder) => {
  const manifests = build(folder)
  const deployment = manifests.find(({ kind }) => kind === 'Deployment') as unknown as {
    spec: {
      template: {
        spec: {
          terminationGracePeriodSeconds: number
          volumes: { name: string }[]
          containers: {
            args: string[]
            ports: { containerPort: number }[]
            env: { name: string; valueFrom?: { secretKeyRef: { optional?: boolean } } }[]
            volumeMounts: { name: string }[]
            securityContext: Record<string, unknown>
          }[]
        }
      }
    }
  }
  const [container] = deployment.spec.template.spec.containers

  it.each(manifests.map((manifest) => [`${manifest.kind} ${manifest.metadata.name}`, manifest] as const))(
    '%s fits its schema',
    (__, manifest) => {
      expect(() => validate(manifest)).not.toThrow()
    },
  )

  it('does not start without its Secret, and runs without rights', () => {
    const secrets = container?.env.filter(({ valueFrom }) => valueFrom !== undefined) ?? []
    expect(secrets.map(({ name }) => name)).toEqual(
      expect.arrayContaining(['MINISERVE_API_KEY', 'MINISERVE_ADMIN_KEY']),
    )
    expect(secrets.some(({ valueFrom }) => valueFrom?.secretKeyRef.optional === true)).toBe(false)
    expect(container?.args).not.toContain('--insecure')
    expect(container?.securityContext).toMatchObject({ readOnlyRootFilesystem: true, allowPrivilegeEscalation: false })
  })

  it('uses flags, variables and volumes that exist', () => {
    const flags = new Set(SETTINGS.flatMap(({ flag }) => (flag === undefined ? [] : [`--${flag}`])))
    expect(container?.args.filter((arg) => arg.startsWith('--') && !flags.has(arg))).toEqual([])
    const volumes = deployment.spec.template.spec.volumes.map(({ name }) => name)
    expect(container?.volumeMounts.filter(({ name }) => !volumes.includes(name))).toEqual([])
    const named = deployment.spec.template.spec.containers.flatMap(({ ports }) =>
      ports.map((port) => port.containerPort),
    )
    const metricsPort = container?.args[container.args.indexOf('--metrics-port') + 1]
    if (container?.args.includes('--metrics-port')) expect(named).toContain(Number(metricsPort))
    // What a port of the pod is for can be reached; probes come from the node, which no policy keeps out.
    const policy = manifests.find(({ kind }) => kind === 'NetworkPolicy') as unknown as {
      spec: { ingress: { ports: { port: number }[] }[]; egress: { ports: { port: number }[] }[] }
    }
    const open = policy.spec.ingress.flatMap(({ ports }) => ports.map(({ port }) => port))
    expect(new Set(open)).toEqual(new Set(named))
    const out = policy.spec.egress.flatMap(({ ports }) => ports.map(({ port }) => port))
    expect(out).toEqual(expect.arrayContaining([53, 4317]))
    if (container?.args.includes('--engine-url')) expect(out).toContain(8000)
    if (container?.args.includes('pgvector')) expect(out).toContain(5432)
    // preStop, --shutdown-timeout and the exporter's flush have to fit.
    expect(deployment.spec.template.spec.terminationGracePeriodSeconds).toBeGreaterThan(5 + 25 + 5)
  })
})

it('names metrics that the server has, to the autoscaler and to the endpoint picker', () => {
  const documented = readFileSync(fileURLToPath(new URL('../docs/metrics.md', import.meta.url)), 'utf8')
  const texts = folders.flatMap((folder) =>
    readdirSync(folder, { withFileTypes: true })
      .filter((entry) => entry.isFile())
      .map(({ name }) => readFileSync(join(folder, name), 'utf8')),
  )
  const names = new Set(texts.flatMap((text) => [...text.matchAll(/miniserve_\w+/g)].map(([name]) => name)))
  expect(names.size).toBeGreaterThan(4)
  expect([...names].filter((name) => !documented.includes(`\`${name}\``))).toEqual([])
})

it('names files that are there, and no file is left out', () => {
  const used = new Set(
    folders.flatMap((folder) => {
      const { resources } = parse(readFileSync(join(folder, 'kustomization.yaml'), 'utf8')) as Kustomization
      return resources.map((resource) => join(folder, resource))
    }),
  )
  expect([...used].filter((path) => !existsSync(path))).toEqual([])
  const files = readdirSync(root, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile() && entry.name !== 'kustomization.yaml')
    .map(({ parentPath, name }) => join(parentPath, name))
  expect(files.filter((path) => !used.has(path))).toEqual([])
})
