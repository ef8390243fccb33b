"use strict";

// What the pages do beyond htmx: copy buttons, and the playground's stopwatches.

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
