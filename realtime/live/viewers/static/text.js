/** Short texts for the pages: elements by id, times, sizes, and messages that vanish by themselves. */

export const byId = (id) => document.getElementById(id);
export const write = (id, text) => { if (byId(id).textContent !== text) byId(id).textContent = text; };
export const clockTime = (date) => date.toLocaleTimeString([], { hour: "2-digit", minute: "2-digit", second: "2-digit", hour12: false });

/** Seconds as 1:02 or 1:02:03. */
export function elapsed(seconds) {
  const whole = Math.floor(seconds);
  const [hours, minutes, rest] = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60, String(whole % 60).padStart(2, "0")];
  return hours ? `${hours}:${String(minutes).padStart(2, "0")}:${rest}` : `${minutes}:${rest}`;
}

/** Bytes as a short text. */
export function size(bytes) {
  const [unit, name] = bytes >= 1e9 ? [1e9, "GB"] : [1e6, "MB"];
  const value = bytes / unit;
  return `${value.toFixed(value < 10 ? 1 : 0)} ${name}`;
}

/** How long something lasted, such as 0.4 s, 12 s or 1:02 min. */
export const lasted = (seconds) => (seconds < 60 ? `${seconds.toFixed(seconds < 10 ? 1 : 0)} s` : `${elapsed(seconds)} min`);

/** What a sighting is, in a few words. */
export function described({ kind, number, is_reported_false }) {
  if (kind === "missed") return `Missed polyp ${number}`;
  return is_reported_false ? `Sighting ${number}, reported false` : `Sighting ${number}`;
}

let timer = 0;

export function toast(text, isProblem = false) {
  write("toast", text);
  byId("toast").classList.toggle("problem", isProblem);
  byId("toast").classList.add("shown");
  clearTimeout(timer);
  timer = setTimeout(() => byId("toast").classList.remove("shown"), isProblem ? 8000 : 1800);
}
