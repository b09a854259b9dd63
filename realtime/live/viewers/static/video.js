/** H.264 over WebRTC: frames come as video, their markers as messages with the time stamp of the frame they belong to. */

const SILENT_MS = 3000; // without a frame, JPEG is requested again
const CLOCK_RANGE = 2 ** 32;

export class VideoLink {
  #peer = null;
  #video = null;
  #origin = NaN;
  #headers = new Map(); // time stamp -> header, oldest first
  #timer = 0;
  #heardAt = 0;
  #still = document.createElement("canvas"); // the newest frame
  #shown = NaN; // its time stamp

  /**
   * @param {{send: function(object), draw: function(object, HTMLCanvasElement), skip: function(), received: function(number), fail: function(string)}} to
   * `draw` is called with each frame's header and picture; `skip` for a header whose frame did not come; `received`
   * with the number of bytes since the last call.
   */
  constructor(to) {
    this.to = to;
  }

  get isOn() { return this.#peer !== null; }

  async start() {
    this.stop();
    if (!("requestVideoFrameCallback" in HTMLVideoElement.prototype)) return this.to.fail("this browser cannot match frames and markers");
    const peer = (this.#peer = new RTCPeerConnection());
    const transceiver = peer.addTransceiver("video", { direction: "recvonly" });
    const codecs = RTCRtpReceiver.getCapabilities("video").codecs.filter(({ mimeType }) => mimeType === "video/H264");
    if (!codecs.length) return this.#fail("this browser has no H.264");
    transceiver.setCodecPreferences(codecs);
    transceiver.receiver.jitterBufferTarget = 0;
    peer.ontrack = ({ track }) => this.#watch(track);
    await peer.setLocalDescription(await peer.createOffer());
    if (peer.iceGatheringState !== "complete") {
      await new Promise((resolve) => {
        peer.onicegatheringstatechange = () => peer.iceGatheringState === "complete" && resolve();
        setTimeout(resolve, 1500);
      });
    }
    if (peer !== this.#peer) return;
    this.to.send({ kind: "video", sdp: peer.localDescription.sdp });
    this.#heardAt = performance.now();
    let received = 0;
    this.#timer = setInterval(async () => {
      for (const report of (await peer.getStats()).values()) {
        if (report.type !== "inbound-rtp") continue;
        this.to.received(report.bytesReceived - received);
        received = report.bytesReceived;
      }
      if (performance.now() - this.#heardAt > SILENT_MS && !document.hidden) this.#fail("no H.264 frame arrives");
    }, 500);
  }

  stop() {
    clearInterval(this.#timer);
    this.#peer?.close();
    this.#video?.remove();
    this.#peer = this.#video = null;
    this.#origin = NaN;
    for (const _ of this.#headers) this.to.skip();
    this.#headers.clear();
  }

  async answered(sdp) {
    await this.#peer?.setRemoteDescription({ type: "answer", sdp }).catch(() => this.#fail("the answer cannot be used"));
  }

  originIs(origin) { this.#origin = origin; }

  /** Keep a header until its frame comes. */
  expect(header) {
    this.#headers.set(header.video_stamp, header);
    if (header.video_stamp === this.#shown) this.#present(); // its frame was faster
  }

  #fail(reason) {
    this.stop();
    this.to.send({ kind: "no_video" });
    this.to.fail(reason);
  }

  #watch(track) {
    const video = (this.#video = document.createElement("video"));
    Object.assign(video, { muted: true, playsInline: true, autoplay: true, srcObject: new MediaStream([track]) });
    video.className = "source";
    document.body.append(video);
    const next = (_, { rtpTimestamp }) => {
      if (video !== this.#video) return;
      this.#frame(rtpTimestamp);
      video.requestVideoFrameCallback(next);
    };
    video.requestVideoFrameCallback(next);
    video.play().catch(() => this.#fail("the browser does not play it"));
  }

  /** Draw a frame if its header is there; headers before it belong to frames that will not come. */
  #frame(rtpTimestamp) {
    this.#heardAt = performance.now();
    if (rtpTimestamp === undefined) return this.#fail("this browser does not state time stamps");
    this.#shown = (rtpTimestamp - this.#origin + CLOCK_RANGE) % CLOCK_RANGE;
    const { videoWidth: width, videoHeight: height } = this.#video;
    if (this.#still.width !== width || this.#still.height !== height) Object.assign(this.#still, { width, height });
    this.#still.getContext("2d", { alpha: false }).drawImage(this.#video, 0, 0);
    this.#present();
  }

  #present() {
    const header = this.#headers.get(this.#shown);
    if (!header) return;
    for (const earlier of this.#headers.keys()) {
      this.#headers.delete(earlier);
      if (earlier === this.#shown) break;
      this.to.skip();
    }
    this.to.draw(header, this.#still);
  }
}
