/** HTML that cannot be broken by what is put into it: every value is escaped unless it is markup already. */

/** Markup that was made by `markup`, and is put into other markup as it is. */
export class Markup {
  readonly text: string;

  constructor(text: string) {
    this.text = text;
  }
}

export type MarkupValue = string | number | Markup | readonly Markup[];

/** A tagged template: the text between the values is markup, the values are text. Attribute values stand in double quotes. */
export function markup(texts: TemplateStringsArray, ...values: readonly MarkupValue[]): Markup {
  return new Markup(texts.reduce((all, text, index) => `${all}${render(values[index - 1] ?? "")}${text}`));
}

function render(value: MarkupValue): string {
  if (value instanceof Markup) return value.text;
  if (typeof value === "object") return value.map(({ text }) => text).join("");
  return escapeText(String(value));
}

const ENTITIES: Readonly<Record<string, string>> = {
  "&": "&amp;",
  "<": "&lt;",
  ">": "&gt;",
  '"': "&quot;",
  "'": "&#39;",
};

/** Escapes what HTML gives a meaning to, and drops control characters, which no document may hold. */
export function escapeText(text: string): string {
  return (
    text
      // biome-ignore lint/suspicious/noControlCharactersInRegex: control characters are what is taken out
      .replace(/[\u0000-\u0008\u000b\u000c\u000e-\u001f\u007f-\u009f\ufffe\uffff]/g, "")
      .replace(/[&<>"']/g, (character) => ENTITIES[character] ?? "")
  );
}
