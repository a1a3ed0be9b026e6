/** What `npm audit` found, judged: each finding is mended, or explained with a reason until a day. */
import { z } from "zod";

/** `npm audit --json`, as far as it is read: the findings of each package, those that only come from a dependency named by a string. */
const Report = z.object({
  vulnerabilities: z.record(
    z.string(),
    z.object({
      via: z.array(
        z.union([z.string(), z.object({ url: z.string(), title: z.string(), severity: z.string() })]),
      ),
    }),
  ),
});

export const Exceptions = z.array(
  z.strictObject({
    /** The advisory's id, GHSA-xxxx-xxxx-xxxx. */
    advisory: z.string().regex(/^GHSA(-[0-9a-z]{4}){3}$/),
    package: z.string().min(1),
    /** Why it does no harm here, or what is waited for. */
    reason: z.string().min(20),
    /** The day from which on it has to be looked at again. */
    expires: z.iso.date(),
  }),
);
export type Exception = z.output<typeof Exceptions>[number];

export interface Finding {
  readonly advisory: string;
  readonly package: string;
  readonly severity: string;
  readonly title: string;
}

/** The findings of a report; undefined where the registry did not answer with one. */
export function readFindings(report: unknown): Finding[] | undefined {
  const parsed = Report.safeParse(report);
  if (!parsed.success) return undefined;
  const findings = Object.entries(parsed.data.vulnerabilities).flatMap(([name, { via }]) =>
    via.flatMap((one) =>
      typeof one === "string"
        ? []
        : [
            {
              advisory: one.url.split("/").at(-1) ?? one.url,
              package: name,
              severity: one.severity,
              title: one.title,
            },
          ],
    ),
  );
  return findings;
}

/**
 * What is wrong: a finding that nobody has explained, an explanation that has run out, one that explains nothing any more.
 * @param today as YYYY-MM-DD
 */
export function judgeFindings(
  findings: readonly Finding[],
  exceptions: readonly Exception[],
  today: string,
): string[] {
  const isOf = (finding: Finding) => (exception: Exception) =>
    exception.advisory === finding.advisory && exception.package === finding.package;
  const problems = findings.flatMap((finding) => {
    const said = `${finding.package}: ${finding.title} (${finding.severity}, ${finding.advisory})`;
    const exception = exceptions.find(isOf(finding));
    if (exception === undefined)
      return [`${said}: update it, or explain it in scripts/audit-exceptions.json`];
    return exception.expires <= today ? [`${said}: its explanation ran out on ${exception.expires}`] : [];
  });
  const unused = exceptions.filter((exception) => !findings.some((finding) => isOf(finding)(exception)));
  return [
    ...problems,
    ...unused.map(
      (one) => `${one.advisory} of ${one.package} is not found any more: take its explanation out`,
    ),
  ];
}
