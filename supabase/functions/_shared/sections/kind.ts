/** What a section is, for the filter on `content_type`. */
export type ContentType = "page" | "section" | "exercise" | "callout";

const KINDS: ReadonlyMap<string, ContentType> = new Map([
  ...["challenge", "exercise", "exercises", "discussion", "activity", "quiz"].map(
    (label) => [label, "exercise"] as const,
  ),
  ...[
    "callout",
    "note",
    "tip",
    "hint",
    "info",
    "warning",
    "caution",
    "danger",
    "important",
    "prerequisite",
  ].map((label) => [label, "callout"] as const),
]);

/** The kind that a box's own label ("Challenge") states; `section` for every other label and for none. */
export function kindOf(label: string): ContentType {
  return KINDS.get(label.trim().toLowerCase()) ?? "section";
}
