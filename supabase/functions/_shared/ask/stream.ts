/**
 * An answer as server-sent events: `sources` once, `delta` for each piece of text, and at the end `done` or `error`. Each is a line `event: <name>` and a
 * line `data: <JSON>`.
 */
import type { Asking } from "../ask.ts";

export interface StreamOptions {
  readonly requestId: string;
  /** Is called when whoever listens has left. */
  readonly onLeave: () => void;
  /** Is handed the work that goes on meanwhile and never rejects: it ends when the ledger is written. */
  readonly keepAlive: (work: Promise<unknown>) => void;
  /** The error object for what was thrown. */
  readonly describe: (error: unknown) => object;
}

export function streamAnswer({ ground, answer }: Asking, options: StreamOptions): Response {
  const encoder = new TextEncoder();
  let hasLeft = false;
  const body = new ReadableStream<Uint8Array>({
    start(controller) {
      const send = (event: string, data: object) => {
        if (!hasLeft)
          controller.enqueue(encoder.encode(`event: ${event}\ndata: ${JSON.stringify(data)}\n\n`));
      };
      const run = async () => {
        send("sources", { ...ground, request_id: options.requestId });
        try {
          for (;;) {
            const step = await answer.next();
            if (step.done) {
              send("done", { ...step.value, request_id: options.requestId });
              break;
            }
            send("delta", { text: step.value });
          }
        } catch (error) {
          send("error", options.describe(error));
        }
        if (!hasLeft) controller.close();
      };
      options.keepAlive(run().catch(() => {}));
    },
    cancel() {
      hasLeft = true;
      options.onLeave();
    },
  });
  return new Response(body, {
    headers: {
      "content-type": "text/event-stream; charset=utf-8",
      "cache-control": "no-cache, no-transform",
      // A proxy that gathers an answer before it passes it on would take the streaming away.
      "x-accel-buffering": "no",
    },
  });
}
