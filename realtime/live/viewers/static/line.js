/** The socket to the server: reconnects by itself, knows the server's clock, and hands messages on. */

const FIRST_WAIT_MS = 250;
const LONGEST_WAIT_MS = 4000;
const QUIET_MS = 4000; // the server answers pings, so a longer silence is a broken line
const PING_MS = 1000;
const FIRST_PINGS = 6;
const ANSWERS_KEPT = 20;

export class Line {
  #socket = null;
  #wait = FIRST_WAIT_MS;
  #answers = []; // { roundTrip, offset }, milliseconds
  #heardAt = 0;
  #pings = 0;
  #timer = 0;
  #owed = 0;

  /** @param {{greeted: function(object), frame: function(object, Uint8Array), open: function(boolean)}} heard */
  constructor(heard) {
    this.heard = heard;
    this.#connect();
    setInterval(() => this.#tick(), PING_MS);
    document.addEventListener("visibilitychange", () => this.#settle());
    addEventListener("online", () => this.#retryNow());
  }

  /** Milliseconds of the server's monotonic clock, or NaN before its first answer. */
  serverNow() {
    const best = this.#answers.reduce((a, b) => (b.roundTrip < a.roundTrip ? b : a), { roundTrip: Infinity, offset: NaN });
    return performance.now() + best.offset;
  }

  send(message) {
    if (this.#socket?.readyState === WebSocket.OPEN) this.#socket.send(JSON.stringify(message));
  }

  /** Say that one frame is done with; a hidden page holds its answers back, so that nothing is sent to it in vain. */
  done(delays = {}) {
    if (document.hidden) this.#owed += 1;
    else this.send({ kind: "drawn", ...delays });
  }

  #settle() {
    for (; this.#owed && !document.hidden; this.#owed -= 1) this.send({ kind: "drawn" });
  }

  #connect() {
    const address = new URL("watch" + location.search, location.href);
    address.protocol = address.protocol.replace("http", "ws");
    const socket = new WebSocket(address);
    socket.binaryType = "arraybuffer";
    socket.onopen = () => {
      this.#wait = FIRST_WAIT_MS;
      this.#heardAt = performance.now();
      this.#answers = [];
      this.#pings = this.#owed = 0;
      this.heard.open(true);
      this.#ping();
    };
    socket.onmessage = ({ data }) => this.#receive(data);
    socket.onclose = () => this.#lose(socket);
    this.#socket = socket;
  }

  #lose(socket) {
    if (socket !== this.#socket) return;
    this.#socket = null;
    this.heard.open(false);
    this.#timer = setTimeout(() => this.#connect(), this.#wait * (0.75 + Math.random() / 2));
    this.#wait = Math.min(this.#wait * 1.6, LONGEST_WAIT_MS);
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
      this.#lose(socket); // its own farewell may take a minute on a dead line
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
    if (message.kind === "pong") {
      const offset = message.now_s * 1000 - (message.sent_ms + now) / 2;
      this.#answers.push({ roundTrip: now - message.sent_ms, offset });
      if (this.#answers.length > ANSWERS_KEPT) this.#answers.shift();
      if (this.#pings < FIRST_PINGS) this.#ping();
    }
  }
}
