/**
 * POST /backfill: works off due jobs for one slice, inside the edge limits. Woken by cron; takes no instruction from the body.
 * Overlapping ticks find the slot taken and go away; an empty queue is silent.
 */
import { z } from "zod";
import type { Edge } from "../_shared/edge.ts";
import type { Handler } from "../_shared/http.ts";
import { createQueue } from "../_shared/queue.ts";
import { type WorkSwitches, workingBy, workSlice } from "../_shared/worker.ts";

/** A slice begins no claim after this time; the platform ends a function at 150 s. */
const SLICE_MS = 40_000;
/** Rows of a slice: the platform ends a request after 2 s of CPU, and `bench edge` says what 100 rows of 1536 dimensions take. */
const SLICE_ROWS = 1_000;
/** Claims that are worked on at once. More would not fit the memory and the time of CPU that a function has. */
const LANES = 2;
/** A slot outlives the longest slice, so that a killed worker's slot comes free soon. */
const SLOT_SECONDS = 120;

export function makeHandler(edge: Edge, slots: number, switches: WorkSwitches = {}): Handler {
  return async (request, { requestId }) => {
    await edge.requireSecret(request, "backfill");
    const slot = z
      .uuid()
      .nullable()
      .parse(await edge.service("reembed_enter_slot", { slots, seconds: SLOT_SECONDS }));
    if (slot === null) return { ended: "running", request_id: requestId };
    try {
      const report = await workSlice(
        { queue: createQueue(edge.service), embedderFor: edge.embedderFor },
        { budgetMs: SLICE_MS, limit: SLICE_ROWS, lanes: LANES, ...workingBy(switches) },
      );
      return { ...report, request_id: requestId };
    } finally {
      await edge.service("reembed_leave_slot", { token: slot });
    }
  };
}
