/** The page: what arrives is drawn, what is drawn is timed, and what the user wants is sent. */

import { Drawing } from "./drawing.js";
import { Line } from "./line.js";

const RECENT_MS = 3000;
const TOO_FEW = 0.8; // of the source's pictures
const WORDS = { ready: "Ready", uncertain: "Uncertain", lost: "Lost" };
const body = document.body;
const byId = (id) => document.getElementById(id);
const write = (id, text) => { if (byId(id).textContent !== text) byId(id).textContent = text; };

const drawing = new Drawing();
const state = { lostAfterMs: 800, isOpen: false, told: { light: "lost", reason: "" }, gauges: null, capturedAt: NaN, evidenceAt: NaN };
let waiting = null; // the newest frame that is decoded and not drawn
let arrivals = 0;
let decoded = 0;
let pictureAt = -Infinity; // when the last one was drawn, by performance.now()
const recent = { video: [], marker: [] };

const line = new Line({
  greeted({ style, lost_after_s }) {
    drawing.style = style;
    state.lostAfterMs = lost_after_s * 1000;
  },
  open(isOpen) {
    state.isOpen = isOpen;
    if (!isOpen) drop();
    show();
  },
  async frame(header, jpeg) {
    if (!jpeg.length) {
      line.done();
      state.told = header;
      drop();
      drawing.mark([]);
      show();
      return;
    }
    const arrival = (arrivals += 1);
    const bitmap = await createImageBitmap(new Blob([jpeg], { type: "image/jpeg" })).catch(() => null);
    if (!bitmap || arrival < decoded || !state.isOpen) {
      bitmap?.close();
      line.done();
      return;
    }
    decoded = arrival;
    if (waiting) drop();
    else requestAnimationFrame(drawNewest);
    waiting = { header, bitmap };
  },
});

/** Forget the frame that waits to be drawn, if there is one. */
function drop() {
  if (!waiting) return;
  waiting.bitmap.close();
  waiting = null;
  line.done();
}

function drawNewest() {
  if (!waiting) return;
  const { header, bitmap } = waiting;
  const capturedAt = header.captured_at_s * 1000;
  if (line.serverNow() - capturedAt > state.lostAfterMs) return drop(); // left over from before the page was hidden
  waiting = null;
  drawing.draw(header, bitmap);
  bitmap.close();
  const now = performance.now();
  const video = line.serverNow() - capturedAt;
  const evidenceAt = header.evidence_age_s === null ? NaN : capturedAt - header.evidence_age_s * 1000;
  const isNewEvidence = Number.isFinite(evidenceAt) && !(Math.abs(evidenceAt - state.evidenceAt) < 0.5);
  const marker = isNewEvidence ? video + capturedAt - evidenceAt : NaN;
  Object.assign(state, { told: header, gauges: header.gauges, capturedAt, frame: header });
  if (isNewEvidence) state.evidenceAt = evidenceAt;
  pictureAt = now;
  keep(recent.video, now, video);
  keep(recent.marker, now, marker);
  line.done({
    video_delay_s: Number.isFinite(video) ? video / 1000 : null,
    marker_delay_s: Number.isFinite(marker) ? marker / 1000 : null,
  });
  showLight();
}

function keep(samples, now, value) {
  if (Number.isFinite(value)) samples.push({ now, value });
  while (samples.length && samples[0].now < now - RECENT_MS) samples.shift();
}

function quantile(samples, share) {
  const sorted = samples.map(({ value }) => value).sort((a, b) => a - b);
  return sorted.length ? sorted[Math.min(sorted.length - 1, Math.floor(share * sorted.length))] : NaN;
}

function hasPicture() {
  const now = performance.now();
  const age = Math.max(now - pictureAt, line.serverNow() - state.capturedAt || 0);
  return state.isOpen && age < state.lostAfterMs;
}

function lightNow() {
  if (hasPicture()) return state.told;
  if (!state.isOpen) return { light: "lost", reason: "No connection to polypstream. Trying again" };
  if (state.told.light === "lost" && state.told.reason) return state.told;
  const seconds = (performance.now() - pictureAt) / 1000;
  const since = Number.isFinite(seconds) ? ` for ${seconds.toFixed(seconds < 10 ? 1 : 0)} s` : " yet";
  return { light: "lost", reason: `No new picture${since}` };
}

function showLight() {
  const { light, reason } = lightNow();
  const isWithoutPicture = !hasPicture();
  if (isWithoutPicture || light === "lost") drawing.mark([]);
  body.dataset.light = light;
  body.classList.toggle("without-picture", isWithoutPicture);
  const sentence = reason.charAt(0).toUpperCase() + reason.slice(1);
  write("word", WORDS[light]);
  write("reason", isWithoutPicture ? "" : sentence);
  write("alarm-reason", isWithoutPicture ? sentence : "");
}

function show() {
  showLight();
  const isLive = hasPicture();
  const whole = (value) => (isLive && Number.isFinite(value) ? value.toFixed(0) : "–");
  const { gauges, frame } = state;
  const { video } = recent;
  const fps = video.length > 1 ? (1000 * (video.length - 1)) / (video.at(-1).now - video[0].now) : NaN;
  write("video-delay", whole(quantile(recent.video, 0.5)));
  write("marker-delay", whole(quantile(recent.marker, 0.5)));
  write("fps", whole(fps));
  byId("fps").classList.toggle("poor", isLive && fps < TOO_FEW * gauges.fps_in);
  if (!gauges) return;
  write("operating-point-name", gauges.operating_point);
  write("threshold-value", gauges.threshold.toFixed(2));
  body.dataset.recording = gauges.recording ? "yes" : "no";
  write("record-label", gauges.recording ? "Recording" : "Record");
  byId("record").setAttribute("aria-pressed", gauges.recording);
  write("details", [
    `${frame.width} × ${frame.height}`,
    `source ${whole(gauges.fps_in)} fps`,
    `judged ${whole(gauges.fps_inference)} fps, ${gauges.dropped_inference_frames} passed over`,
    `slowest in 100: video ${whole(quantile(recent.video, 0.99))} ms, marker ${whole(quantile(recent.marker, 0.99))} ms`,
  ].join("   ·   "));
}

const command = (action) => line.send({ kind: "command", action });

function toast(text) {
  write("toast", text);
  byId("toast").classList.add("shown");
  clearTimeout(toast.timer);
  toast.timer = setTimeout(() => byId("toast").classList.remove("shown"), 1400);
}

const KEYS = {
  o() {
    const isOn = (body.dataset.overlay = body.dataset.overlay === "on" ? "off" : "on") === "on";
    byId("overlay").setAttribute("aria-pressed", isOn);
    command(isOn ? "overlay_on" : "overlay_off");
    toast(isOn ? "Markers on" : "Markers off");
  },
  s() {
    const isOn = (body.dataset.views = body.dataset.views === "one" ? "two" : "one") === "two";
    byId("side-by-side").setAttribute("aria-pressed", isOn);
    drawing.layOut();
    command(isOn ? "side_by_side_on" : "side_by_side_off");
  },
  p: () => command("operating_point_next"),
  "+": () => command("threshold_up"),
  "-": () => command("threshold_down"),
  n() {
    command("snapshot");
    toast("Snapshot");
  },
  r: () => command(state.gauges?.recording ? "record_stop" : "record_start"),
  f: () => (document.fullscreenElement ? document.exitFullscreen() : document.documentElement.requestFullscreen?.()),
  "?": () => (byId("help").open ? byId("help").close() : byId("help").showModal()),
};
const SAME = { "=": "+", "_": "-", "−": "-" };
const REPEATED = new Set(["+", "-"]);

addEventListener("keydown", (event) => {
  const key = SAME[event.key] ?? event.key.toLowerCase();
  if (event.ctrlKey || event.metaKey || event.altKey || !Object.hasOwn(KEYS, key)) return;
  if (event.repeat && !REPEATED.has(key)) return;
  event.preventDefault();
  KEYS[key]();
});
for (const button of document.querySelectorAll("button[data-key]")) {
  button.addEventListener("click", (event) => {
    if (event.detail) button.blur(); // pressed by hand; or the space bar would press it again
    KEYS[button.dataset.key]();
  });
}

setInterval(showLight, 100);
setInterval(show, 250);
