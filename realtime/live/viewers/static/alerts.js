/** Alerts: when this page draws attention to a polyp. The same rules as in alerts.py; all times in milliseconds. */

const BRIDGED_MS = 300;
const RECENT_MS = 4000;
const TONE_S = 0.16;
const TONE_HZ = 880;

export class Alerts {
  settings = { after_s: 0, rearm_s: 5, quiet_s: 30, sound: false };
  raised = 0;
  #since = NaN;
  #marked = -Infinity;
  #shown = -Infinity;
  #quietUntil = -Infinity;
  #isShown = false;

  /** What to show, without bridging gaps while the light is not ready: "on", "quiet" (acknowledged), "recent" (gone since a moment) or "off". */
  update(isMarked, now, isReady = true) {
    if (isMarked) {
      if (!(now - this.#marked <= BRIDGED_MS)) {
        this.#since = now;
        this.#isShown = false;
      }
      this.#marked = now;
    }
    if (!(now - this.#marked <= (isReady ? BRIDGED_MS : 0))) {
      this.#isShown = false;
      return now - this.#shown < RECENT_MS ? "recent" : "off";
    }
    if (this.#marked - this.#since < this.settings.after_s * 1000) return "off";
    const isQuiet = now < this.#quietUntil;
    if (!this.#isShown && !isQuiet && now - this.#shown >= this.settings.rearm_s * 1000) this.raised += 1;
    this.#isShown = true;
    this.#shown = this.#marked;
    return isQuiet ? "quiet" : "on";
  }

  /** Drop what was shown, at once: the picture is not live, or markers are off. */
  clear() {
    this.#marked = this.#shown = -Infinity;
    this.#isShown = false;
  }

  sinceShown(now) { return now - this.#shown; }
  quietFor(now) { return Math.max(0, this.#quietUntil - now); }
  acknowledge(now) { this.#quietUntil = now + this.settings.quiet_s * 1000; }
}

let audio = null;

/** Sound a short tone; returns false where the browser blocks sound until the page has been clicked. */
export function tone() {
  audio ??= new AudioContext();
  if (audio.state !== "running") {
    audio.resume();
    if (!navigator.userActivation?.hasBeenActive) return false;
  }
  const [start, volume, pitch] = [audio.currentTime, audio.createGain(), audio.createOscillator()];
  volume.gain.setValueAtTime(0.0001, start);
  volume.gain.exponentialRampToValueAtTime(0.25, start + 0.02);
  volume.gain.exponentialRampToValueAtTime(0.0001, start + TONE_S);
  pitch.frequency.value = TONE_HZ;
  pitch.connect(volume).connect(audio.destination);
  pitch.start(start);
  pitch.stop(start + TONE_S);
  return true;
}
