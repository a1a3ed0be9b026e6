/** Prints the main job for a person: headings with the time that has passed, facts below them, one progress bar at a time. */
import { styleText } from "node:util";
import { Presets, SingleBar } from "cli-progress";

export interface Narrator {
  heading(text: string): void;
  say(text: string): void;
  /** A bar on a terminal, nothing elsewhere. */
  progress(total: number, unit: string): { update(value: number, note?: string): void; stop(): void };
}

export function createNarrator(stream: NodeJS.WriteStream): Narrator {
  const began = performance.now();
  const style = (format: "bold" | "dim", text: string) =>
    stream.isTTY ? styleText(format, text, { stream }) : text;
  return {
    heading(text) {
      const seconds = ((performance.now() - began) / 1000).toFixed(1).padStart(5);
      stream.write(`\n${style("dim", `${seconds} s`)}  ${style("bold", text)}\n`);
    },
    say(text) {
      stream.write(text.replaceAll(/^(?=.)/gm, "         ").concat("\n"));
    },
    progress(total, unit) {
      const bar = new SingleBar(
        {
          format: `         {bar} {value}/{total} ${unit} {note}`,
          barsize: 30,
          stream,
          noTTYOutput: false,
          clearOnComplete: true,
        },
        Presets.shades_classic,
      );
      if (stream.isTTY) bar.start(total, 0, { note: "" });
      return {
        update: (value, note = "") => bar.update(Math.min(value, total), { note }),
        stop: () => bar.stop(),
      };
    },
  };
}
