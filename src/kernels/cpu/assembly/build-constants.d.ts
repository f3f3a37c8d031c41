/** Whether this build has dot products instead of pairs (dot-products.ts); scripts/build-wasm.mjs sets it. */
declare const DOT_PRODUCTS: bool
