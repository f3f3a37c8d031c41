/** The resource of all signals of this server. OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES take precedence. */
import { detectResources, envDetector, type Resource, resourceFromAttributes } from '@opentelemetry/resources'
import { SCHEMA_URL } from './contract.ts'

/** Creates the resource. `serviceVersion`: the git revision, or the package's version outside a checkout. */
export function serverResource(serviceVersion: string, instanceId: string): Resource {
  const given = detectResources({ detectors: [envDetector] })
  const resource = resourceFromAttributes(
    {
      'service.name': 'miniserve',
      'service.version': serviceVersion,
      'service.instance.id': instanceId,
    },
    { schemaUrl: SCHEMA_URL },
  ).merge(given)
  const environment =
    resource.attributes['deployment.environment.name'] ?? resource.attributes['deployment.environment'] ?? 'dev'
  // The environment has a current and an old name.
  return resource.merge(
    resourceFromAttributes({ 'deployment.environment': environment, 'deployment.environment.name': environment }),
  )
}
