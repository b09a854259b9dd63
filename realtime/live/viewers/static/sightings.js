/** The strip of sightings: fetched anew whenever the session's record has changed. */

import { byId, clockTime, described, lasted, write } from "./text.js";

const dialog = byId("sighting");
const strip = byId("strip");

export class Sightings {
  #revision = 0;
  #isFetching = false;
  #listed = [];

  constructor() {
    strip.addEventListener("click", (event) => {
      const button = event.target.closest("button");
      if (button) this.#open(Number(button.dataset.number));
    });
  }

  /** Fetch the record if it has changed; called with every frame. */
  async follow(revision) {
    if (!revision || revision === this.#revision || this.#isFetching) return;
    this.#isFetching = true;
    const answer = await fetch("record", { cache: "no-store" }).catch(() => null);
    if (answer?.ok) {
      const { sightings, revision: fetched } = await answer.json();
      this.#revision = fetched;
      this.#show(sightings);
    } else await new Promise((resolve) => setTimeout(resolve, 2000));
    this.#isFetching = false;
  }

  #show(sightings) {
    const isNew = sightings.length > this.#listed.length;
    this.#listed = sightings;
    write("sighting-count", String(sightings.length));
    for (const each of sightings) {
      const button = strip.querySelector(`[data-number="${each.number}"]`) ?? added(each.number);
      const time = clockTime(new Date(each.time));
      const text = each.kind === "missed" ? "Missed" : each.is_reported_false ? "False" : lasted(each.duration_s);
      button.setAttribute("aria-label", `${described(each)}, ${time}, ${lasted(each.duration_s)}`);
      button.dataset.kind = each.kind === "missed" ? "missed" : each.is_reported_false ? "false" : "polyp";
      button.toggleAttribute("data-current", each.is_current);
      button.querySelector("time").textContent = time;
      button.querySelector("span").textContent = text;
      const image = button.querySelector("img");
      if (each.image && image.dataset.version !== String(each.image)) {
        image.dataset.version = each.image;
        image.src = `record/thumbnail/${each.number}?${each.image}`;
      }
    }
    if (isNew) strip.scrollTo({ top: strip.scrollHeight, left: strip.scrollWidth });
  }

  #open(number) {
    const each = this.#listed.find((other) => other.number === number);
    write("sighting-title", described(each));
    write("sighting-facts", `${clockTime(new Date(each.time))} · marked for ${lasted(each.duration_s)} · highest mean probability ${each.score.toFixed(2)}`);
    byId("sighting-image").src = `record/marked/${number}?${each.image}`;
    byId("sighting-clip").hidden = !each.has_clip;
    byId("sighting-clip").href = `record/clip/${number}`;
    dialog.showModal();
  }
}

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
