/** How the fake answers with JSON. */
import type { ServerResponse } from "node:http";
import type { Refusal } from "./refusals.ts";

export function refuse(response: ServerResponse, { status, body }: Refusal): void {
  send(response, status, body);
}

export function send(response: ServerResponse, status: number, body: unknown): void {
  sendText(response, status, JSON.stringify(body));
}

export function sendText(response: ServerResponse, status: number, text: string): void {
  response.writeHead(status, {
    "content-type": "application/json",
    "content-length": String(Buffer.byteLength(text)),
  });
  response.end(text);
}
