export interface PostgresServer {
  readonly url: string
  /** Stops it and removes its data; a second call waits for the first. */
  stop(): Promise<void>
}
export function postgresBinaries(): string | null
export function startPostgres(binaries: string, settings?: readonly string[]): Promise<PostgresServer>
