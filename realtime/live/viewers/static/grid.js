/** The grid: one small picture per stream, each linked to the page of its stream. */

const RETRY_MS = 2000;
const LIGHTS = { ready: "Ready", uncertain: "Uncertain", lost: "No picture" };

/** One stream: its link, which contains the picture with markers, its name and its status. */
class Tile {
  #link = document.createElement("a");
  #canvas = document.createElement("canvas");
  #name = document.createElement("b");
  #status = document.createElement("span");
  #address;
  #style = null;
  #lostAfterMs = 1000;
  #timer = 0;

  constructor(number) {
    this.#address = `stream/${number}/`;
    this.#link.href = this.#address;
    this.#name.textContent = `Stream ${number}`;
    this.#canvas.setAttribute("aria-hidden", "true");
    const caption = document.createElement("p");
    caption.append(this.#name, this.#status);
    this.#link.append(this.#canvas, caption);
    document.getElementById("streams").append(this.#link);
    this.#say("lost", "");
    this.#connect();
  }

  #connect() {
    const address = new URL(`${this.#address}watch`, location.href);
    address.search = "";
    address.protocol = address.protocol.replace("http", "ws");
    const socket = new WebSocket(address);
    socket.binaryType = "arraybuffer";
    socket.onmessage = async ({ data }) => {
      if (typeof data === "string") return this.#greet(JSON.parse(data));
      await this.#show(data);
      if (socket.readyState === WebSocket.OPEN) socket.send(JSON.stringify({ kind: "drawn" }));
    };
    socket.onclose = ({ reason }) => {
      this.#say("lost", reason);
      setTimeout(() => this.#connect(), RETRY_MS);
    };
  }

  #greet({ kind, source, style, lost_after_s: lostAfter }) {
    if (kind !== "greeting") return;
    if (source) this.#name.textContent = source;
    this.#style = style;
    this.#lostAfterMs = lostAfter * 1000;
  }

  async #show(data) {
    const length = new DataView(data).getUint32(0);
    const header = JSON.parse(new TextDecoder().decode(new Uint8Array(data, 4, length)));
    const jpeg = new Uint8Array(data, 4 + length);
    this.#say(header.light, header.reason);
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#say("lost", ""), this.#lostAfterMs);
    this.#link.dataset.polyp = header.markers?.length ? "yes" : "no";
    if (!jpeg.length) return;
    const bitmap = await createImageBitmap(new Blob([jpeg], { type: "image/jpeg" }));
    const canvas = this.#canvas;
    canvas.width = bitmap.width;
    canvas.height = Math.round((bitmap.width * header.height) / (header.width * header.aspect));
    const context = canvas.getContext("2d", { alpha: false });
    context.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
    bitmap.close();
    for (const { points, opacity } of header.markers) {
      context.globalAlpha = opacity;
      context.strokeStyle = `rgb(${this.#style.rgb.join(" ")})`;
      context.lineWidth = Math.max(3, canvas.width / 200);
      context.beginPath();
      for (let at = 0; at < points.length; at += 2)
        context.lineTo((points[at] * canvas.width) / header.width, (points[at + 1] * canvas.height) / header.height);
      context.closePath();
      context.stroke();
    }
  }

  #say(light, reason) {
    this.#link.dataset.light = light;
    const text = reason ? `${LIGHTS[light]}: ${reason}` : LIGHTS[light];
    if (this.#status.textContent !== text) this.#status.textContent = text;
  }
}

const count = Number(document.getElementById("streams").dataset.streams);
for (let number = 1; number <= count; number += 1) new Tile(number);
