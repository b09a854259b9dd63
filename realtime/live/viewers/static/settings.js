/** The settings panel: alerts of this page with presets in the browser's storage, and the address to share. */

import { byId, write } from "./text.js";

const PRESETS = "polypstream-presets"; // { name: settings }
const CHOSEN = "polypstream-preset";
const DEFAULT = "Default";
const CURRENT = "polypstream-alerts"; // what is in use, also if it was not saved under a name
const panel = byId("settings");
const fields = [...panel.querySelectorAll("input[name]")];
const chooser = byId("preset");

function stored(key, otherwise) {
  try {
    return JSON.parse(localStorage.getItem(key)) ?? otherwise;
  } catch {
    return otherwise; // written by something else
  }
}

export class Settings {
  #defaults = null;

  constructor(alerts) {
    this.alerts = alerts;
    for (const field of fields) field.addEventListener("change", () => this.#take());
    chooser.addEventListener("change", () => this.#choose(chooser.value));
    byId("save-preset").addEventListener("click", () => {
      byId("preset-form").hidden = false;
      byId("preset-name").focus();
    });
    byId("preset-form").addEventListener("submit", (event) => {
      event.preventDefault();
      this.#save(byId("preset-name").value.trim());
    });
    byId("delete-preset").addEventListener("click", () => this.#delete());
  }

  toggle() {
    if (panel.open) panel.close();
    else {
      panel.show();
      panel.scrollTop = 0; // the focus is on its last button
    }
  }

  /** Take the session's defaults, and the address for further screens, if there is one. */
  greeted(defaults, share) {
    this.#defaults = defaults;
    this.#apply({ ...defaults, ...stored(CURRENT, {}) });
    this.#list(stored(CHOSEN, DEFAULT));
    byId("share").hidden = !share;
    if (share && !byId("qr").src) byId("qr").src = "qr.svg";
    write("share-url", share ?? "");
  }

  #apply(values) {
    for (const name of ["after_s", "rearm_s", "quiet_s", "sound"]) {
      const isValid = typeof values[name] === typeof this.#defaults[name];
      this.alerts.settings[name] = isValid ? values[name] : this.#defaults[name];
    }
    for (const field of fields) {
      if (field.type === "checkbox") field.checked = this.alerts.settings[field.name];
      else field.value = this.alerts.settings[field.name];
    }
  }

  /** Use what the fields say; an impossible number is put back. */
  #take() {
    const values = { ...this.alerts.settings };
    for (const field of fields) {
      if (field.type === "checkbox") values[field.name] = field.checked;
      else if (field.value !== "" && field.checkValidity()) values[field.name] = field.valueAsNumber;
    }
    this.#apply(values);
    localStorage.setItem(CURRENT, JSON.stringify(values));
    const saved = chooser.value === DEFAULT ? this.#defaults : stored(PRESETS, {})[chooser.value];
    if (JSON.stringify(saved) !== JSON.stringify(values)) chooser.value = "";
  }

  #choose(name) {
    const values = name === DEFAULT ? this.#defaults : stored(PRESETS, {})[name];
    if (!values) return;
    this.#apply(values);
    localStorage.setItem(CHOSEN, JSON.stringify(name));
    if (name === DEFAULT) localStorage.removeItem(CURRENT);
    else localStorage.setItem(CURRENT, JSON.stringify(values));
    byId("delete-preset").disabled = name === DEFAULT;
  }

  #save(name) {
    if (!name || name === DEFAULT) return;
    localStorage.setItem(PRESETS, JSON.stringify({ ...stored(PRESETS, {}), [name]: this.alerts.settings }));
    byId("preset-form").hidden = true;
    this.#list(name);
    this.#choose(name);
  }

  #delete() {
    const { [chooser.value]: _, ...others } = stored(PRESETS, {});
    localStorage.setItem(PRESETS, JSON.stringify(others));
    this.#list(DEFAULT);
    this.#choose(DEFAULT);
  }

  #list(chosen) {
    const names = [DEFAULT, ...Object.keys(stored(PRESETS, {}))];
    chooser.replaceChildren(...names.map((name) => new Option(name, name)));
    chooser.value = names.includes(chosen) ? chosen : DEFAULT;
    byId("delete-preset").disabled = chooser.value === DEFAULT;
  }
}
