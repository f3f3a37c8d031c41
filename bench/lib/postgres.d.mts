export interface PostgresServer {
  readonly url: string
  stop(): Promise<void>
}
export function postgresBinaries(): string | null
export function startPostgres(binaries: string, settings?: readonly string[]): Promise<PostgresServer>
