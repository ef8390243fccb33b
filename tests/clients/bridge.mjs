// Calls Resend's client for Node as it is told in lines of JSON, and answers in lines of JSON.
// RESEND_BASE_URL says where Mailsite is, as for anybody who uses the client.

import { createInterface } from "node:readline";
import { Resend } from "resend";

const BYTES = {
  Buffer: (bytes) => bytes,
  Uint8Array: (bytes) => new Uint8Array(bytes),
  ArrayBuffer: (bytes) => new Uint8Array(bytes).buffer,
};

function revived(_, value) {
  return value?.$bytes === undefined ? value : BYTES[value.$as](Buffer.from(value.$bytes, "base64"));
}

for await (const line of createInterface({ input: process.stdin })) {
  const { key, call, words } = JSON.parse(line, revived);
  const names = call.split(".");
  const method = names.pop();
  const resource = names.reduce((place, name) => place[name], new Resend(key));
  console.log(JSON.stringify(await resource[method](...words)));
}
