"use strict";

// What the pages do beyond htmx: keys, copy buttons, the form's time zone and files, the playground's stopwatches, and a
// word where a page that renews itself gets no answer.

const keys = document.getElementById("keys");
const pages = new Map(); // by the first of the letters of their names that is free

for (const link of keys ? document.querySelectorAll(".top nav a") : []) {
  const letter = [...link.textContent.toLowerCase()].find((letter) => !pages.has(letter));
  pages.set(letter, link);
  const row = keys.querySelector("template").content.cloneNode(true);
  row.querySelector("kbd:last-of-type").textContent = letter;
  row.querySelector("dd").textContent = link.textContent;
  keys.querySelector("dl").append(row);
}

document.addEventListener("click", (event) => {
  if (event.target.closest("[data-keys]")) keys.showModal();
});

function search() {
  const field = document.querySelector("input[type=search], #searchbar"); // the admin's
  if (field) field.select();
  else if (pages.has("m")) location.assign(`${pages.get("m").href}#q`);
}

let going; // while the letter after a "g" is awaited

document.addEventListener("keydown", (event) => {
  if (!keys || keys.open || event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.target.closest("input:not([type=radio]), textarea, select")) return;
  const page = going && pages.get(event.key);
  clearTimeout(going);
  going = undefined;
  if (page) page.click();
  else if (event.key === "/") search();
  else if (event.key === "?") keys.showModal();
  else if (event.key === "g") going = setTimeout(() => (going = undefined), 2000);
  else return;
  event.preventDefault();
});

async function copy(element) {
  getSelection().selectAllChildren(element);
  try {
    await navigator.clipboard.writeText(element.textContent);
  } catch {
    document.execCommand("copy"); // plain http on another host has no clipboard API
  }
}

document.addEventListener("click", async (event) => {
  const button = event.target.closest("[data-copy]");
  if (!button) return;
  await copy(document.getElementById(button.dataset.copy));
  button.textContent = "Copied";
});

const zone = document.getElementById("zone");
if (zone) {
  zone.textContent = Intl.DateTimeFormat().resolvedOptions().timeZone;
  document.getElementById("id_time_zone").value = zone.textContent;
}

function readable(bytes) {
  return bytes < 100_000 ? `${(bytes / 1024).toFixed(1)} KB` : `${(bytes / 1024 ** 2).toFixed(1)} MB`;
}

document.addEventListener("change", (event) => {
  if (event.target.id !== "id_attachments") return;
  const files = [...event.target.files];
  const all = files.reduce((sum, file) => sum + file.size, 0);
  const list = files.map((file) => `${file.name} (${readable(file.size)})`).join(", ");
  const together = files.length > 1 ? `; together ${readable(all)}` : "";
  const output = event.target.form.querySelector(".files");
  output.classList.remove("lost");
  output.textContent = list + together;
});

document.addEventListener("submit", async (event) => {
  if (event.target.id !== "queued") return;
  event.preventDefault();
  const result = document.getElementById("queued-result");
  const address = event.target.elements.email.value;
  const begun = performance.now();
  try {
    const response = await fetch(`${event.target.action}/${encodeURIComponent(address)}`);
    const body = await response.json();
    const milliseconds = Math.round(performance.now() - begun);
    const heading = document.createElement("strong");
    heading.textContent = `${response.ok ? "Answered" : "Refused"} in ${milliseconds} ms`;
    const answer = document.createElement("pre");
    answer.textContent = JSON.stringify(body, null, 2);
    result.replaceChildren(heading, answer);
  } catch (error) {
    result.textContent = `No answer: ${error.message}`;
  }
  htmx.trigger("#live", "look");
});

let clock;

document.addEventListener("htmx:beforeRequest", (event) => {
  if (event.target.id !== "direct") return;
  const begun = performance.now();
  const seconds = document.createElement("strong");
  const tick = () => (seconds.textContent = `Waiting for ${((performance.now() - begun) / 1000).toFixed(1)} s …`);
  tick();
  document.getElementById("direct-result").replaceChildren(seconds);
  clock = setInterval(tick, 100);
});

document.addEventListener("htmx:afterRequest", (event) => {
  if (event.target.id !== "direct") return;
  clearInterval(clock);
  if (!event.detail.successful) document.getElementById("direct-result").textContent = "No answer.";
});

// A part that renews itself keeps what stands there while no good answer comes: then it must not look well.
const RENEWED = "[hx-trigger^=every]";
const stale = document.createElement("p");
stale.className = "notice warning";
stale.role = "alert";
let answered = new Date();

document.addEventListener("htmx:configRequest", (event) => {
  if (event.detail.elt.matches(RENEWED)) event.detail.timeout = 10_000; // milliseconds
});

document.addEventListener("htmx:afterRequest", (event) => {
  if (!event.detail.requestConfig.elt.matches(RENEWED)) return; // which may have been replaced
  document.documentElement.classList.toggle("stale", !event.detail.successful);
  if (event.detail.successful) {
    answered = new Date();
    stale.remove();
  } else if (!stale.isConnected) {
    const time = answered.toLocaleTimeString("en-GB", { hour: "2-digit", minute: "2-digit", timeZoneName: "short" });
    stale.textContent = `No answer since ${time}: what stands here may be old.`;
    document.getElementById("main").prepend(stale);
  }
});
