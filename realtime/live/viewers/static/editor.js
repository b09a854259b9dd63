/** A polygon over an image: corners are dragged, added on the line, and removed; or it is drawn anew, click by click. */

const NEAR = 14; // CSS pixels within which a corner or the line is meant
const MOST = 24; // corners that are shown for editing
const LINE = "#28ff96";

export class Editor {
  #canvas;
  #image = null;
  #points = null; // [[x, y], …] in pixels of the image
  #original = null;
  #dragged = -1;
  #scale = 1;
  isDrawing = false;
  isChanged = false;

  /** @param {HTMLCanvasElement} canvas @param {function()} onChange */
  constructor(canvas, onChange) {
    this.#canvas = canvas;
    this.onChange = onChange;
    new ResizeObserver(() => this.#layOut()).observe(canvas.parentElement);
    canvas.addEventListener("pointerdown", (event) => this.#press(event));
    canvas.addEventListener("pointermove", (event) => this.#drag(event));
    canvas.addEventListener("pointerup", () => { this.#dragged = -1; });
    canvas.addEventListener("dblclick", (event) => this.#remove(event));
  }

  /** The outline as [[x, y], …]; null without one. */
  get points() { return this.#points && this.#points.length > 2 ? this.#points : null; }

  /** Show an image with its outline; null for none yet. */
  show(image, contour) {
    this.#image = image;
    this.#original = contour && thinned(contour);
    this.revert();
    this.#layOut();
  }

  clear() {
    this.#image = this.#points = this.#original = null;
    this.#draw();
  }

  revert() {
    this.#points = this.#original?.map((point) => [...point]) ?? null;
    this.isDrawing = this.isChanged = false;
    this.#draw();
    this.onChange();
  }

  drawAnew() {
    this.#points = [];
    this.isDrawing = this.isChanged = true;
    this.#draw();
    this.onChange();
  }

  finish() {
    this.isDrawing = false;
    this.#draw();
  }

  #at(event) {
    const box = this.#canvas.getBoundingClientRect();
    const within = (value, most) => Math.min(Math.max(value, 0), most);
    return [
      within((event.clientX - box.left) / this.#scale, this.#image.naturalWidth),
      within((event.clientY - box.top) / this.#scale, this.#image.naturalHeight),
    ];
  }

  #press(event) {
    if (!this.#image || this.isLocked) return;
    const at = this.#at(event);
    const near = NEAR / this.#scale;
    this.#canvas.setPointerCapture(event.pointerId);
    if (this.isDrawing) {
      this.#points.push(at);
      this.#dragged = this.#points.length - 1;
    } else if (this.#points) {
      const corner = this.#points.findIndex((point) => distance(point, at) < near);
      if (corner >= 0) this.#dragged = corner;
      else {
        const side = this.#points.findIndex((point, i) => toSide(at, point, this.#points[(i + 1) % this.#points.length]) < near);
        if (side < 0) return;
        this.#points.splice(side + 1, 0, at);
        this.#dragged = side + 1;
      }
    } else return;
    this.#changed();
  }

  #drag(event) {
    if (this.#dragged < 0) return;
    this.#points[this.#dragged] = this.#at(event);
    this.#changed();
  }

  #remove(event) {
    if (!this.#points || this.isDrawing || this.isLocked || this.#points.length < 4) return;
    const at = this.#at(event);
    const corner = this.#points.findIndex((point) => distance(point, at) < NEAR / this.#scale);
    if (corner < 0) return;
    this.#points.splice(corner, 1);
    this.#changed();
  }

  #changed() {
    this.isChanged = true;
    this.#draw();
    this.onChange();
  }

  #layOut() {
    if (!this.#image) return;
    const { clientWidth, clientHeight } = this.#canvas.parentElement;
    this.#scale = Math.max(Math.min(clientWidth / this.#image.naturalWidth, clientHeight / this.#image.naturalHeight), 0.01);
    const size = [this.#image.naturalWidth * this.#scale, this.#image.naturalHeight * this.#scale];
    [this.#canvas.style.width, this.#canvas.style.height] = size.map((side) => `${side}px`);
    [this.#canvas.width, this.#canvas.height] = size.map((side) => Math.round(side * devicePixelRatio));
    this.#draw();
  }

  #draw() {
    const { width, height } = this.#canvas;
    const pen = this.#canvas.getContext("2d");
    pen.clearRect(0, 0, width, height);
    if (!this.#image) return;
    pen.drawImage(this.#image, 0, 0, width, height);
    if (!this.#points?.length) return;
    const scale = this.#scale * devicePixelRatio;
    const path = new Path2D();
    for (const [x, y] of this.#points) path.lineTo(x * scale, y * scale);
    if (!this.isDrawing) path.closePath();
    for (const [color, line] of [["rgb(0 12 8 / .8)", 5], [LINE, 2.5]]) {
      pen.lineWidth = line * devicePixelRatio;
      pen.strokeStyle = color;
      pen.stroke(path);
    }
    pen.fillStyle = "#fff";
    for (const [x, y] of this.#points) {
      pen.beginPath();
      pen.arc(x * scale, y * scale, 4 * devicePixelRatio, 0, 2 * Math.PI);
      pen.fill();
    }
  }
}

const distance = ([x, y], [u, v]) => Math.hypot(x - u, y - v);

function toSide(at, [x, y], [u, v]) {
  const length = (u - x) ** 2 + (v - y) ** 2 || 1;
  const share = Math.min(Math.max(((at[0] - x) * (u - x) + (at[1] - y) * (v - y)) / length, 0), 1);
  return distance(at, [x + share * (u - x), y + share * (v - y)]);
}

/** Every so many corners of a contour, so that they can be grasped. */
function thinned(contour) {
  const step = Math.max(1, Math.ceil(contour.length / MOST));
  return contour.filter((_, i) => i % step === 0);
}
