/** The review page: accept, correct or delete sightings, and export the result. */

import { Connection } from "./connection.js";
import { Editor } from "./editor.js";
import { byId, clockTime, described, lasted, toast, write } from "./text.js";

const EVERY_MS = 2000;
const VERDICTS = { accepted: "accepted", deleted: "no polyp", open: "undecided" };
const strip = byId("strip");
const editor = new Editor(byId("frame"), () => byId("draw").setAttribute("aria-pressed", editor.isDrawing));
const state = { sightings: [], current: 0, shown: "", mayControl: true, noticeNumber: undefined };

const connection = new Connection({
  greeted({ session, may_control }) {
    state.mayControl = may_control;
    editor.isLocked = !may_control;
    write("session", session ? `Review · ${session}` : "Review");
    for (const control of document.querySelectorAll("[data-controls]")) control.disabled = !may_control;
  },
  open(isOpen, why) {
    write("connection", isOpen ? "" : why || "No connection: decisions cannot be saved");
    if (isOpen) fetchRecord();
  },
  frame() {},
}, "commands");

async function fetchRecord() {
  const answer = await fetch("record", { cache: "no-store" }).catch(() => null);
  if (!answer?.ok) return;
  const { sightings, notice, missing } = await answer.json();
  noticed(notice);
  showMissing(missing);
  state.sightings = sightings;
  if (!state.current && sightings.length) state.current = (sightings.find((each) => each.verdict === "open") ?? sightings[0]).number;
  show();
}

/** Say what the folder of a session lacks. */
function showMissing(lines) {
  byId("missing").hidden = !lines.length;
  if (state.missing === lines.join("\n")) return;
  state.missing = lines.join("\n");
  byId("missing").querySelector("summary").textContent =
    `This session is incomplete: ${lines.length} ${lines.length === 1 ? "thing is" : "things are"} missing or damaged`;
  byId("missing").querySelector("ul").replaceChildren(...lines.map((line) => {
    const item = document.createElement("li");
    item.textContent = line;
    return item;
  }));
}

/** Show each message of the session once, but none from before this page was opened. */
function noticed(notice) {
  const number = notice?.number ?? 0;
  if (state.noticeNumber !== undefined && number > state.noticeNumber) {
    toast(notice.text.charAt(0).toUpperCase() + notice.text.slice(1), notice.is_problem);
  }
  state.noticeNumber = number;
}

function show() {
  const { sightings } = state;
  const done = sightings.filter(({ verdict }) => verdict !== "open").length;
  write("progress", sightings.length ? `${done} of ${sightings.length} reviewed` : "");
  byId("empty").hidden = sightings.length > 0;
  for (const each of sightings) {
    const button = strip.querySelector(`[data-number="${each.number}"]`) ?? added(each.number);
    button.dataset.verdict = each.verdict;
    button.toggleAttribute("aria-current", each.number === state.current);
    button.setAttribute("aria-label", `${described(each)}, ${VERDICTS[each.verdict]}`);
    button.querySelector("time").textContent = clockTime(new Date(each.time));
    button.querySelector("span").textContent = VERDICTS[each.verdict];
    const image = button.querySelector("img");
    if (each.image && image.dataset.version !== String(each.image)) {
      image.dataset.version = each.image;
      image.src = `record/thumbnail/${each.number}?${each.image}`;
    }
  }
  const each = current();
  byId("current").hidden = !each;
  if (!each) return;
  byId("current").dataset.verdict = each.verdict;
  write("current-title", described(each));
  write("facts", [
    clockTime(new Date(each.time)),
    each.kind === "polyp" && `marked for ${lasted(each.marked_s)} within ${lasted(each.duration_s)}`,
    each.kind === "polyp" && `highest mean probability ${each.score.toFixed(2)}`,
    each.tracks.length > 1 && `${each.tracks.length} tracks`,
    VERDICTS[each.verdict] + (each.is_corrected && each.verdict === "accepted" ? ", corrected" : ""),
  ].filter(Boolean).join(" · "));
  byId("clip").hidden = !each.has_clip;
  byId("clip").href = `record/clip/${each.number}`;
  if (document.activeElement !== byId("note") || state.noted !== each.number) byId("note").value = each.note;
  state.noted = each.number;
  const wanted = `${each.number}?${each.image}`;
  if (!each.image && state.shown !== wanted) {
    state.shown = wanted;
    editor.clear();
  }
  if (wanted !== state.shown && each.image && !(editor.isChanged && state.shown.startsWith(`${each.number}?`))) load(each, wanted);
}

async function load(each, wanted) {
  state.shown = wanted;
  const image = new Image();
  image.src = `record/image/${wanted}`;
  if (await image.decode().then(() => true, () => false)) {
    if (state.shown !== wanted) return;
    editor.show(image, each.contour);
    byId("frame").dataset.number = each.number;
  } else {
    state.shown = "";
    editor.clear();
    toast("The picture of this sighting cannot be loaded", true);
  }
}

const current = () => state.sightings.find(({ number }) => number === state.current);

function choose(number) {
  state.current = number;
  editor.isChanged = false;
  show();
  strip.querySelector(`[data-number="${number}"]`)?.scrollIntoView({ block: "nearest", inline: "nearest" });
}

function step(by) {
  const place = state.sightings.findIndex(({ number }) => number === state.current) + by;
  if (state.sightings[place]) choose(state.sightings[place].number);
}

/** Send a decision; the strip shows it once the server has saved it. */
function decide(verdict) {
  const each = current();
  if (!each) return;
  if (verdict === "accepted" && !editor.points) return toast("Draw the outline of the polyp first (D)", true);
  editor.finish();
  const points = verdict === "accepted" && editor.isChanged ? editor.points.flat().map((value) => Math.round(10 * value) / 10) : null;
  if (!connection.send({ kind: "review", number: each.number, verdict, points, note: byId("note").value })) return toast("No connection: this was not saved", true);
  editor.isChanged = false;
  const next = verdict === "open" ? null : state.sightings.find((other) => other.number > each.number && other.verdict === "open");
  setTimeout(async () => {
    await fetchRecord();
    if (current()?.number === each.number && current().verdict !== verdict) toast("This was not saved; try again", true);
    else if (next) choose(next.number);
  }, 300);
}

/** Save the note of the sighting that it was written for. */
function saveNote() {
  const each = state.sightings.find(({ number }) => number === state.noted);
  const note = byId("note").value.trim();
  if (!each || note === each.note || !state.mayControl) return;
  each.note = note;
  if (!connection.send({ kind: "review", number: each.number, verdict: each.verdict, note })) toast("No connection: the note was not saved", true);
}

const KEYS = {
  Enter: () => decide("accepted"),
  Delete: () => decide("deleted"),
  u: () => decide("open"),
  d: () => (editor.isDrawing ? editor.finish() : editor.drawAnew()),
  Escape: () => editor.revert(),
};
const SAME = { Backspace: "Delete" };

addEventListener("keydown", (event) => {
  const key = SAME[event.key] ?? (event.key.length === 1 ? event.key.toLowerCase() : event.key);
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest("form")) return;
  if (event.target.id === "note") {
    if (key === "Enter" || key === "Escape") event.target.blur();
    return;
  }
  if (key === "ArrowLeft" || key === "ArrowRight") return step(key === "ArrowLeft" ? -1 : 1);
  if (!Object.hasOwn(KEYS, key) || event.repeat || !state.mayControl) return;
  if (key === "Enter" && event.target.closest("button, a")) return; // presses what has the focus
  event.preventDefault();
  KEYS[key]();
});
for (const button of document.querySelectorAll("button[data-key]")) button.addEventListener("click", () => KEYS[button.dataset.key]());
strip.addEventListener("click", (event) => {
  const button = event.target.closest("button");
  if (button) choose(Number(button.dataset.number));
});
byId("note").addEventListener("change", saveNote);
byId("export-form").addEventListener("submit", (event) => {
  event.preventDefault();
  const formats = [...event.target.querySelectorAll("input:checked")].map(({ name }) => name);
  if (connection.send({ kind: "export", formats })) toast("Exporting…");
  else toast("No connection: nothing was exported", true);
  setTimeout(fetchRecord, 500);
});

function added(number) {
  const [item, button] = [document.createElement("li"), document.createElement("button")];
  button.dataset.number = number;
  const image = new Image();
  image.alt = "";
  button.append(image, document.createElement("time"), document.createElement("span"));
  item.append(button);
  strip.append(item);
  return button;
}

setInterval(fetchRecord, EVERY_MS);
