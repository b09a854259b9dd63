/** WebSocket to the server: reconnects automatically, estimates the server's clock, and forwards messages. */

const FIRST_WAIT_MS = 250;
const LONGEST_WAIT_MS = 4000;
const QUIET_MS = 4000; // the server answers pings, so a longer silence means a broken connection
const PING_MS = 1000;
const FIRST_PINGS = 6;
const ANSWERS_KEPT = 20;
const REFUSED_WAIT_MS = 30000;
const GOING_AWAY = 1001;

export class Connection {
  #socket = null;
  #wait = FIRST_WAIT_MS;
  #answers = []; // { roundTrip, offset }, milliseconds
  #heardAt = 0;
  #pings = 0;
  #timer = 0;
  #owed = 0;
  #hasOpened = false;
  #purpose = "";
  #why = ""; // reason why there is no connection

  /**
   * @param {{greeted: function(object), frame: function(object, Uint8Array), open: function(boolean, string)}} heard
   * `open` is called with whether there is a connection and, if not, the reason.
   * @param {string} purpose "commands" to receive no frames.
   */
  constructor(heard, purpose = "") {
    this.heard = heard;
    this.#purpose = purpose;
    this.#connect();
    setInterval(() => this.#tick(), PING_MS);
    document.addEventListener("visibilitychange", () => this.#settle());
    addEventListener("online", () => this.#retryNow());
  }

  /** The server's monotonic clock in milliseconds; NaN before its first answer. */
  serverNow() {
    const best = this.#answers.reduce((a, b) => (b.roundTrip < a.roundTrip ? b : a), { roundTrip: Infinity, offset: NaN });
    return performance.now() + best.offset;
  }

  /** Send a message; returns whether there is a connection. */
  send(message) {
    if (this.#socket?.readyState !== WebSocket.OPEN) return false;
    this.#socket.send(JSON.stringify(message));
    return true;
  }

  /** Confirm one frame; a hidden page delays this, so that the server does not send frames in vain. */
  done(delays = {}) {
    if (document.hidden) this.#owed += 1;
    else this.send({ kind: "drawn", ...delays });
  }

  #settle() {
    for (; this.#owed && !document.hidden; this.#owed -= 1) this.send({ kind: "drawn" });
  }

  #connect() {
    const address = new URL("watch", location.href);
    address.search = this.#purpose;
    address.protocol = address.protocol.replace("http", "ws");
    const socket = new WebSocket(address);
    socket.binaryType = "arraybuffer";
    socket.onopen = () => {
      this.#wait = FIRST_WAIT_MS;
      this.#why = "";
      this.#hasOpened = true;
      this.#heardAt = performance.now();
      this.#answers = [];
      this.#pings = this.#owed = 0;
      this.heard.open(true, "");
      this.#ping();
    };
    socket.onmessage = ({ data }) => this.#receive(data);
    socket.onclose = ({ code, reason }) => this.#lose(socket, code, reason);
    this.#socket = socket;
  }

  #lose(socket, code, reason) {
    if (socket !== this.#socket) return;
    this.#socket = null;
    if (code === GOING_AWAY && reason) this.#why = `${reason}. This page continues when polypstream is started again`;
    this.heard.open(false, this.#why);
    this.#retryIn(this.#wait);
    this.#wait = Math.min(this.#wait * 1.6, LONGEST_WAIT_MS);
    this.#explain();
  }

  #retryIn(ms) {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#connect(), ms * (0.75 + Math.random() / 2));
  }

  /** Request the reason: scripts cannot see why the server refused a WebSocket. */
  async #explain() {
    const answer = await fetch("status", { cache: "no-store" }).catch(() => null);
    if (this.#socket?.readyState === WebSocket.OPEN || !answer) return;
    if (answer.status === 403 || answer.status === 429) {
      this.#why = "This page has lost access: polypstream was restarted with another token. Open the address that it printed";
      if (this.#socket === null) this.#retryIn(REFUSED_WAIT_MS);
    } else if (answer.status === 503) this.#why = await answer.text();
    else if (answer.ok && !this.#hasOpened) {
      this.#why = "The page loads, but its WebSocket does not: the proxy must forward the headers Upgrade and Connection";
    } else return;
    this.heard.open(false, this.#why);
  }

  #retryNow() {
    if (this.#socket) return;
    clearTimeout(this.#timer);
    this.#connect();
  }

  #tick() {
    if (this.#socket?.readyState !== WebSocket.OPEN) return;
    if (performance.now() - this.#heardAt > QUIET_MS && !document.hidden) {
      const socket = this.#socket;
      socket.close();
      this.#lose(socket, 0, ""); // closing may take a minute on a dead connection
    } else this.#ping();
  }

  #ping() {
    this.#pings += 1;
    this.send({ kind: "ping", sent_ms: performance.now() });
  }

  #receive(data) {
    const now = performance.now();
    this.#heardAt = now;
    if (typeof data !== "string") {
      const length = new DataView(data).getUint32(0);
      const header = JSON.parse(new TextDecoder().decode(new Uint8Array(data, 4, length)));
      this.heard.frame(header, new Uint8Array(data, 4 + length));
      return;
    }
    const message = JSON.parse(data);
    if (message.kind === "greeting") this.heard.greeted(message);
    if (message.kind.startsWith("video_")) this.heard.video?.(message);
    if (message.kind === "pong") {
      const offset = message.now_s * 1000 - (message.sent_ms + now) / 2;
      this.#answers.push({ roundTrip: now - message.sent_ms, offset });
      if (this.#answers.length > ANSWERS_KEPT) this.#answers.shift();
      if (this.#pings < FIRST_PINGS) this.#ping();
    }
  }
}
