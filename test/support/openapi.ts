/** An OpenAPI 3.1 document as a judge of answers: which routes there are, which statuses each may have, and whether a body fits its schema. */
import { Ajv2020 } from "ajv/dist/2020.js";
import formats from "ajv-formats";

interface Operation {
  readonly requestBody?: {
    readonly content: { readonly "application/json": { readonly example?: unknown } };
  };
  readonly responses: Readonly<Record<string, unknown>>;
}

export interface OpenApiDocument {
  readonly paths: Readonly<Record<string, Readonly<Record<string, Operation | unknown>>>>;
}

const METHODS = ["get", "put", "post", "delete", "patch"];

export function judgeOf(document: OpenApiDocument) {
  const ajv = new Ajv2020({ allErrors: true, strict: false });
  formats.default(ajv);
  ajv.addSchema(document, "document");
  const pointerTo = (part: string) => encodeURIComponent(part.replaceAll("~", "~0").replaceAll("/", "~1"));
  const complaints = (pointer: string, value: unknown) => {
    const validate = ajv.getSchema(`document#/${pointer}`);
    if (validate === undefined) return [`the document has no schema at ${pointer}`];
    return validate(value) ? [] : (validate.errors ?? []).map((e) => `${e.instancePath} ${e.message}`);
  };
  const operation = (path: string, method: string) => document.paths[path]?.[method] as Operation | undefined;
  return {
    /** Every route with its method, in lower case, and the statuses that it may have. */
    operations: Object.entries(document.paths).flatMap(([path, item]) =>
      METHODS.filter((method) => method in item).map((method) => ({
        path,
        method,
        statuses: Object.keys(operation(path, method)?.responses ?? {}).map(Number),
        example: operation(path, method)?.requestBody?.content["application/json"].example,
      })),
    ),
    /** What is wrong with a body that the route is to take; empty: nothing. */
    requestComplaints: (path: string, method: string, body: unknown) =>
      complaints(`paths/${pointerTo(path)}/${method}/requestBody/content/application~1json/schema`, body),
    /** What is wrong with an answer; empty: nothing. */
    answerComplaints: (path: string, method: string, status: number, body: unknown) =>
      operation(path, method)?.responses[status] === undefined
        ? [`${method} ${path} has no status ${status} in the document`]
        : complaints(
            `paths/${pointerTo(path)}/${method}/responses/${status}/content/application~1json/schema`,
            body,
          ),
  };
}
