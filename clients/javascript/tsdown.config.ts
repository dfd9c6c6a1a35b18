import { defineConfig } from 'tsdown';

export default defineConfig({
  entry: ['src/index.ts', 'src/realtime.ts'],
  format: ['esm', 'cjs'],
  // `package.json` says "module", so plain .js is ESM.
  outExtensions: ({ format }) => (format === 'cjs' ? { js: '.cjs', dts: '.d.cts' } : { js: '.js', dts: '.d.ts' }),
  platform: 'neutral',
  target: 'es2022',
  dts: { oxc: true },
  clean: true,
});
