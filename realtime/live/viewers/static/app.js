/** The page: draws incoming frames, measures their delays, and sends the user's commands. */

import { Alerts, tone } from "./alerts.js";
import { Connection } from "./connection.js";
import { Drawing } from "./drawing.js";
import { Settings } from "./settings.js";
import { Sightings } from "./sightings.js";
import { byId, clockTime, elapsed, size, toast, write } from "./text.js";
import { VideoLink } from "./video.js";

const RECENT_MS = 3000;
const TOO_FEW = 0.8; // share of the source's frame rate
const ZOOMS = [1, 1.5, 2, 3];
const STEP = 0.1; // of the visible part, by which an arrow key moves it
const WORDS = { ready: "Ready", uncertain: "Uncertain", lost: "Lost" };
const body = document.body;

const drawing = new Drawing();
const alerts = new Alerts();
const settings = new Settings(alerts);
const state = { lostAfterMs: 800, isOpen: false, mayControl: true, why: "", told: { light: "lost", reason: "" }, statistics: null, capturedAt: NaN, evidenceAt: NaN };
let waiting = null; // newest frame that is decoded but not drawn yet
let last = null; // the frame on display
let arrivals = 0;
let decoded = 0;
let pictureAt = -Infinity; // when the last live frame was here, by performance.now()
let frozenAt = NaN; // when the picture was frozen
let raised = 0; // alerts that have been signaled
const recent = { video: [], marker: [], bytes: [] };

const connection = new Connection({
  greeted({ style, lost_after_s, may_control, session, source, alerts: defaults, share, has_video }) {
    byId("transfer").hidden = !has_video;
    if (has_video && localStorage.getItem("polypstream-transfer") === "video") startVideo();
    state.mayControl = may_control;
    for (const button of document.querySelectorAll("[data-controls]")) button.disabled = !may_control;
    drawing.style = style;
    state.lostAfterMs = lost_after_s * 1000;
    write("session", session || "polypstream live");
    write("source", source ? `Source: ${source}` : "");
    settings.greeted(defaults, share);
  },
  open(isOpen, why) {
    Object.assign(state, { isOpen, why });
    if (!isOpen) drop();
    if (!isOpen) video.stop();
    show();
  },
  video({ kind, sdp, origin }) {
    if (kind === "video_answer") video.answered(sdp);
    else video.originIs(origin);
  },
  async frame(header, jpeg) {
    keep(recent.bytes, performance.now(), jpeg.length);
    noticed(header.statistics);
    sightings.follow(header.statistics.record_revision);
    if (header.video_stamp !== undefined) {
      if (video.isOn) video.expect(header);
      else connection.done();
      return;
    }
    if (!jpeg.length) {
      connection.done();
      state.told = header;
      state.statistics = header.statistics;
      drop();
      drawing.mark([]);
      show();
      return;
    }
    const arrival = (arrivals += 1);
    const bitmap = await createImageBitmap(new Blob([jpeg], { type: "image/jpeg" })).catch(() => null);
    if (!bitmap || arrival < decoded || !state.isOpen) {
      bitmap?.close();
      connection.done();
      return;
    }
    decoded = arrival;
    if (waiting) drop();
    else requestAnimationFrame(drawNewest);
    waiting = { header, bitmap };
  },
});
const sightings = new Sightings();
const video = new VideoLink({
  send: (message) => connection.send(message),
  skip: () => connection.done(),
  received: (count) => keep(recent.bytes, performance.now(), count),
  fail(reason) {
    byId("transfer-choice").value = "jpeg";
    toast(`JPEG is used, since ${reason}`, true);
  },
  draw: (header, canvas) => present(header, canvas),
});

function startVideo() {
  byId("transfer-choice").value = "video";
  video.start();
}

byId("transfer-choice").addEventListener("change", ({ target }) => {
  localStorage.setItem("polypstream-transfer", target.value);
  if (target.value === "video") return startVideo();
  video.stop();
  connection.send({ kind: "no_video" });
});

/** Drop the frame that is waiting to be drawn, if there is one. */
function drop() {
  if (!waiting) return;
  waiting.bitmap.close();
  waiting = null;
  connection.done();
}

function drawNewest() {
  if (!waiting) return;
  const { header, bitmap } = waiting;
  if (connection.serverNow() - header.captured_at_s * 1000 > state.lostAfterMs) return drop(); // outdated: the page was hidden
  waiting = null;
  present(header, bitmap);
}

/** Show a frame unless the picture is frozen, and report its delays. */
function present(header, bitmap) {
  const capturedAt = header.captured_at_s * 1000;
  const isFrozen = Number.isFinite(frozenAt);
  if (isFrozen) bitmap.close?.();
  else {
    drawing.draw(header, bitmap);
    if (last?.bitmap !== bitmap) last?.bitmap.close?.();
    last = { header, bitmap };
    body.dataset.frame = header.index;
  }
  const now = performance.now();
  const delay = connection.serverNow() - capturedAt;
  const evidenceAt = header.inference_age_s === null ? NaN : capturedAt - header.inference_age_s * 1000;
  const isNewEvidence = Number.isFinite(evidenceAt) && !(Math.abs(evidenceAt - state.evidenceAt) < 0.5);
  const marker = isNewEvidence ? delay + capturedAt - evidenceAt : NaN;
  Object.assign(state, { told: header, statistics: header.statistics, capturedAt, frame: header });
  if (isNewEvidence) state.evidenceAt = evidenceAt;
  pictureAt = now;
  if (!isFrozen) keep(recent.video, now, delay);
  if (!isFrozen) keep(recent.marker, now, marker);
  const isMeasured = !isFrozen && Number.isFinite(delay);
  connection.done({
    video_delay_s: isMeasured ? delay / 1000 : null,
    marker_delay_s: isMeasured && Number.isFinite(marker) ? marker / 1000 : null,
  });
  showLight();
}

function copied(canvas) {
  const copy = Object.assign(document.createElement("canvas"), { width: canvas.width, height: canvas.height });
  copy.getContext("2d", { alpha: false }).drawImage(canvas, 0, 0);
  return copy;
}

function redraw() {
  if (last) drawing.draw(last.header, last.bitmap);
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
  const age = Math.max(now - pictureAt, connection.serverNow() - state.capturedAt || 0);
  return state.isOpen && age < state.lostAfterMs;
}

function lightNow() {
  if (hasPicture()) return held(body.dataset.overlay === "on" ? state.told : withoutMarkers(state.told));
  if (!state.isOpen) return { light: "lost", reason: state.why || "No connection to polypstream. Trying again" };
  if (state.told.light === "lost" && state.told.reason) return state.told;
  const seconds = (performance.now() - pictureAt) / 1000;
  const since = Number.isFinite(seconds) ? ` for ${seconds.toFixed(seconds < 10 ? 1 : 0)} s` : " yet";
  return { light: "lost", reason: `No new frame${since}` };
}

/** Status while markers are off on this page: never ready. */
function withoutMarkers(status) {
  if (status.light !== "ready") return status;
  return { light: "uncertain", reason: ["markers are switched off", status.reason].filter(Boolean).join("; ") };
}

/** Status while the picture is frozen on this page: never ready. */
function held(status) {
  if (!Number.isFinite(frozenAt) || status.light === "lost") return status;
  const text = `the picture has been frozen for ${((performance.now() - frozenAt) / 1000).toFixed(0)} s`;
  return { light: "uncertain", reason: [text, status.light === "ready" ? "" : status.reason].filter(Boolean).join("; ") };
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
  showChip(!isWithoutPicture && light !== "lost" && body.dataset.overlay === "on");
}

/** The chip, brighter corners and tone, from what is marked on the live picture. */
function showChip(isShown) {
  const now = performance.now();
  if (!isShown) alerts.clear();
  const chip = isShown ? alerts.update(state.told.markers?.length > 0, now, state.told.light === "ready") : "off";
  if (body.dataset.chip !== chip) {
    body.dataset.chip = chip;
    byId("chip").disabled = chip === "off";
    if (chip === "on") write("chip-spoken", "Polyp marked");
    if (chip === "off") write("chip-spoken", "");
  }
  const note = { on: "", off: "", quiet: `quiet for ${Math.ceil(alerts.quietFor(now) / 1000)} s`, recent: `${Math.max(1, Math.round(alerts.sinceShown(now) / 1000))} s ago` };
  write("chip-note", note[chip]);
  if (alerts.raised === raised) return;
  raised = alerts.raised;
  if (alerts.settings.sound && !tone()) toast("The browser blocks the tone until this page has been clicked", true);
}

function show() {
  showLight();
  const isLive = hasPicture();
  const whole = (value) => (isLive && Number.isFinite(value) ? value.toFixed(0) : "–");
  const { statistics, frame } = state;
  const { bytes } = recent;
  const rate = (samples) => (samples.length > 1 ? 1000 / (samples.at(-1).now - samples[0].now) : NaN);
  const fps = (recent.video.length - 1) * rate(recent.video);
  for (const name of ["video", "marker"]) {
    write(`${name}-delay`, whole(quantile(recent[name], 0.5)));
    write(`${name}-delay-p99`, whole(quantile(recent[name], 0.99)));
  }
  write("fps", whole(fps));
  write("bytes", isLive ? ((8 / 1e6) * bytes.reduce((sum, { value }) => sum + value, 0) * rate(bytes)).toFixed(1) : "–");
  write("clock", clockTime(new Date()));
  write("picture-state", [Number.isFinite(frozenAt) && "Frozen", drawing.isCropped && "Cropped", drawing.zoom > 1 && `${drawing.zoom}×`].filter(Boolean).join(" · "));
  if (!statistics) return;
  const isSlow = isLive && !Number.isFinite(frozenAt) && fps < TOO_FEW * statistics.fps_in;
  byId("fps").classList.toggle("poor", isSlow);
  write("fps-in", whole(statistics.fps_in));
  write("fps-inference", whole(statistics.fps_inference));
  write("frames-dropped", `${statistics.dropped_frames}`);
  write("saving-problem", statistics.saving_problem);
  write("output-problem", failures(statistics.outputs));
  byId("threads-row").hidden = statistics.inference_threads === null;
  write("inference-threads", `${statistics.inference_threads}`);
  body.dataset.saving = statistics.saving_problem ? "failing" : "ok";
  write("operating-point-name", statistics.operating_point);
  write("threshold-value", statistics.threshold.toFixed(2));
  body.dataset.recording = statistics.recording ? "yes" : "no";
  write("record-label", statistics.recording ? "Recording" : statistics.saving_problem ? "Not saving" : "Record");
  byId("record").setAttribute("aria-pressed", statistics.recording);
  const { recording, recording_s, recording_file, free_bytes } = statistics;
  write("recording-state", [
    recording ? `Recording ${elapsed(recording_s ?? 0)}` : "Not recording",
    recording && recording_file,
    Number.isFinite(free_bytes) && `${size(free_bytes)} free`,
  ].filter(Boolean).join(" · "));
  if (!frame) return;
  write("details", [
    `${frame.width} × ${frame.height}`,
    `source ${whole(statistics.fps_in)} fps`,
    `${isSlow ? "only " : ""}${whole(fps)} fps drawn`,
    `inference ${whole(statistics.fps_inference)} fps`,
    statistics.dropped_frames > 0 && `${statistics.dropped_frames} frames dropped`,
    statistics.is_late && "markers are late: this machine is too slow",
  ].filter(Boolean).join("   ·   "));
}

/** What the pushed streams and receivers of events do not accept, in one line. */
const failures = (outputs) =>
  outputs
    .filter(({ is_working, problem }) => !is_working && problem)
    .map(({ kind, label, problem }) => `Not sending (${kind} ${label}): ${problem}`)
    .join(" · ");

const command = (action) => connection.send({ kind: "command", action });

/** Show each message of the session once, but none from before this page was opened. */
function noticed({ notice, saving_problem }) {
  const number = notice?.number ?? 0;
  if (state.noticeNumber !== undefined && number > state.noticeNumber && notice.text !== saving_problem) {
    toast(notice.text.charAt(0).toUpperCase() + notice.text.slice(1), notice.is_problem);
  }
  state.noticeNumber = number;
}

function press(name, isOn) {
  byId(name).setAttribute("aria-pressed", isOn);
}

function toggleHelp() {
  const help = byId("help");
  if (help.open) return help.close();
  help.showModal();
  help.scrollTop = 0; // the focus is on its last button
}

const KEYS = {
  a() {
    alerts.acknowledge(performance.now());
    if (state.mayControl) command("alert_acknowledged");
    toast(`Quiet for ${alerts.settings.quiet_s} s`);
    showLight();
  },
  o() {
    const isOn = (body.dataset.overlay = body.dataset.overlay === "on" ? "off" : "on") === "on";
    press("overlay", isOn);
    command(isOn ? "overlay_on" : "overlay_off");
    showLight();
    toast(isOn ? "Markers on" : "Markers off");
  },
  " "() {
    frozenAt = Number.isFinite(frozenAt) ? NaN : performance.now();
    if (last?.bitmap instanceof HTMLCanvasElement) last.bitmap = copied(last.bitmap); // the video goes on in it
    press("freeze", Number.isFinite(frozenAt));
    body.toggleAttribute("data-frozen", Number.isFinite(frozenAt));
    recent.video.length = recent.marker.length = 0;
    show();
  },
  z() {
    drawing.zoom = ZOOMS[(ZOOMS.indexOf(drawing.zoom) + 1) % ZOOMS.length];
    body.toggleAttribute("data-zoomed", drawing.zoom > 1);
    redraw();
    toast(drawing.zoom > 1 ? `Enlarged ${drawing.zoom} times` : "Whole picture");
  },
  c() {
    drawing.isCropped = !drawing.isCropped;
    localStorage.setItem("polypstream-crop", drawing.isCropped);
    press("crop", drawing.isCropped);
    redraw();
    toast(drawing.isCropped ? "Only the endoscope's picture" : "Whole frame");
  },
  s() {
    const isOn = (body.dataset.views = body.dataset.views === "one" ? "two" : "one") === "two";
    press("side-by-side", isOn);
    drawing.layOut();
    redraw();
    command(isOn ? "side_by_side_on" : "side_by_side_off");
  },
  p: () => command("operating_point_next"),
  "+": () => command("threshold_up"),
  "-": () => command("threshold_down"),
  n() {
    command("snapshot");
    toast("Saving a snapshot…");
  },
  m: () => command("missed"),
  f: () => command("false_alarm"),
  v: () => open("review", "_blank", "noopener"),
  r: () => command(state.statistics?.recording ? "record_stop" : "record_start"),
  e: () => settings.toggle(),
  x: () => (document.fullscreenElement ? document.exitFullscreen() : document.documentElement.requestFullscreen?.()),
  "?": () => toggleHelp(),
};
const SAME = { "=": "+", "_": "-", "−": "-" };
const CONTROLS = new Set(["p", "+", "-", "n", "m", "f", "r"]); // affect other viewers, or recordings
const REPEATED = new Set(["+", "-"]);
const MOVES = { ArrowLeft: [-STEP, 0], ArrowRight: [STEP, 0], ArrowUp: [0, -STEP], ArrowDown: [0, STEP] };

addEventListener("keydown", (event) => {
  const key = SAME[event.key] ?? event.key.toLowerCase();
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest("input, select")) return;
  if (document.querySelector("dialog:modal") && !(key === "?" && byId("help").open)) return; // the dialog handles keys
  if (event.key === "Escape" && byId("settings").open) return settings.toggle();
  if (Object.hasOwn(MOVES, event.key) && drawing.zoom > 1) {
    event.preventDefault();
    drawing.move(...MOVES[event.key]);
    return redraw();
  }
  if (!Object.hasOwn(KEYS, key) || (event.repeat && !REPEATED.has(key))) return;
  if (key === " " && event.target.closest("button, a, summary")) return; // presses what has the focus
  event.preventDefault();
  if (CONTROLS.has(key) && !state.mayControl) toast("This address is for viewing only");
  else KEYS[key]();
});
for (const button of document.querySelectorAll("button[data-key]")) {
  button.addEventListener("click", (event) => {
    if (event.detail) button.blur(); // after a click; otherwise the space bar would press it again
    KEYS[button.dataset.key]();
  });
}

const markedView = byId("marked-view");
markedView.addEventListener("pointermove", (event) => {
  if (!event.buttons || drawing.zoom === 1) return;
  drawing.move(-event.movementX / markedView.clientWidth, -event.movementY / markedView.clientHeight);
  redraw();
});
markedView.addEventListener("wheel", (event) => {
  event.preventDefault();
  drawing.zoom = Math.round(10 * drawing.zoom * (event.deltaY < 0 ? 1.15 : 1 / 1.15)) / 10;
  body.toggleAttribute("data-zoomed", drawing.zoom > 1);
  redraw();
}, { passive: false });

byId("all-sources").hidden = !/\/stream\/\d+\/$/.test(location.pathname);
drawing.isCropped = localStorage.getItem("polypstream-crop") === "true";
press("crop", drawing.isCropped);
setInterval(showLight, 100);
setInterval(show, 250);
