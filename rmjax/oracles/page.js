"use strict";
// Texts of the data reach the page through textContent alone: what looks like HTML is shown as it is written.

const $ = (id) => document.getElementById(id);
const KEYS = { 1: "1", 2: "2", 3: "tie", 0: "unknown", "?": "unknown" };
const LATER = [500, 1000, 2000, 4000]; // milliseconds before each new try; the last one repeats

let state = null;
let busy = true; // a request is under way: nothing else is taken
let over = false;
let shown = 0; // when the current pair appeared

const wait = (ms) => new Promise((done) => setTimeout(done, ms));

function notice(text) {
  $("notice").textContent = text;
  $("notice").hidden = !text;
}

function textOf(className, text) {
  const part = document.createElement("div");
  part.className = className;
  part.dir = "auto";
  part.textContent = text;
  return part;
}

function enable() {
  for (const button of document.querySelectorAll("[data-said]")) button.disabled = busy || over || !state || !state.pair;
  $("undo").disabled = busy || over || !state || state.last === null;
  $("end").disabled = busy || over;
}

function show(next) {
  const other = !state || state.pair?.number !== next.pair?.number;
  state = next;
  $("who").textContent = `labelled by ${state.by}`;
  $("count").textContent = `${state.done} of ${state.total}`;
  $("bar").max = state.total;
  $("bar").value = state.done;
  $("pair").hidden = !state.pair;
  $("finished").hidden = Boolean(state.pair);
  $("end").textContent = state.pair ? "Stop for now" : "Finish";
  if (state.pair && other) {
    $("prompt").replaceChildren(
      ...state.pair.prompt.map((turn) => {
        const block = document.createElement("div");
        block.className = "turn";
        block.append(textOf("role", turn.role), textOf("text", turn.content));
        return block;
      }),
    );
    $("answer-1").textContent = state.pair.answers[0];
    $("answer-2").textContent = state.pair.answers[1];
    $("prompt").scrollTop = 0;
    scrollTo(0, 0);
    shown = performance.now();
    $("title").focus({ preventScroll: true });
  }
}

// Asks until there is an answer; what was not saved yet is said, and kept.
async function ask(path, body, unsaved) {
  busy = true;
  enable();
  try {
    for (let attempt = 0; ; attempt++) {
      let answer;
      try {
        const how = body && { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) };
        answer = await fetch(path, { ...how, cache: "no-store", credentials: "same-origin" });
        if (answer.ok || answer.status === 409) {
          const next = await answer.json();
          notice(answer.status === 409 ? "Another window was faster: this is the pair to label now." : "");
          return next;
        }
      } catch (error) {
        notice(`The server does not answer. ${unsaved} Trying again. If you stopped it, run the same command and open the address that it prints.`);
        await wait(LATER[Math.min(attempt, LATER.length - 1)]);
        continue;
      }
      if (answer.status === 401) {
        notice(`The server was started anew. ${unsaved} Open the address that the command printed last.`);
      } else {
        notice(`${await answer.text()} ${unsaved}`);
      }
      return null;
    }
  } finally {
    busy = false;
    enable();
  }
}

async function change(path, body, unsaved) {
  if (busy || over) return;
  const next = await ask(path, body, unsaved);
  if (next) show(next);
  enable();
}

function vote(said) {
  if (!state || !state.pair) return;
  const seconds = (performance.now() - shown) / 1000;
  change("/vote", { number: state.pair.number, said, seconds }, "Your last label is not saved yet.");
}

function undo() {
  if (state && state.last !== null) change("/undo", { number: state.last }, "The last label was not taken back yet.");
}

async function end() {
  if (busy || over) return;
  if (!(await ask("/end", {}, "All labels are saved."))) return;
  over = true;
  $("pair").hidden = $("finished").hidden = true;
  $("ended").hidden = false;
  enable();
}

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.repeat) return; // a held key must not label many pairs
  if (event.key in KEYS) vote(KEYS[event.key]);
  else if (event.key.toLowerCase() === "u") undo();
  else if (event.key.toLowerCase() === "h") $("help").open = !$("help").open;
  else return;
  event.preventDefault();
});
for (const button of document.querySelectorAll("[data-said]")) button.addEventListener("click", () => vote(button.dataset.said));
$("undo").addEventListener("click", undo);
$("end").addEventListener("click", end);

ask("/state", null, "").then((next) => {
  if (next) show(next);
  enable();
});
