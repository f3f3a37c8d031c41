/** The paths that a browser without a key must reach to sign in. */
export const SIGN_IN_PATH = '/traces/sign-in'
export const SIGN_OUT_PATH = '/traces/sign-out'
const ASSETS = '/traces/assets/'

export const isSignInPath = (path: string): boolean =>
  path === SIGN_IN_PATH || path === SIGN_OUT_PATH || path.startsWith(ASSETS)
