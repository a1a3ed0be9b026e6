/** Shows the build of an index on the terminal: a bar where somebody watches, and what it waits for. */
import type { BuildOptions } from "./index-build.ts";
import type { Output } from "./output.ts";
import { type Progress, startProgress } from "./progress.ts";

/** Runs `build` with options that show how far it is; the bar appears with the first figure. */
export async function withIndexProgress<T>(
  out: Output,
  signal: AbortSignal | undefined,
  build: (options: BuildOptions) => Promise<T>,
): Promise<T> {
  let bar: Progress | undefined;
  try {
    return await build({
      signal,
      onProgress: (done, total) => {
        bar ??= startProgress("rows indexed");
        bar.update(done, total);
      },
      onWait: out.note,
    });
  } finally {
    bar?.stop();
  }
}
