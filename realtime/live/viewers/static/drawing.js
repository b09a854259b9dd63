/** Canvases: the original image, and above it the markers, at the resolution of the screen; crop and zoom. */

const byId = (id) => document.getElementById(id);
const stage = byId("stage");
const views = [byId("plain-view"), byId("marked-view")];
const canvases = { picture: byId("picture"), plain: byId("plain"), markers: byId("markers") };
const SMALLEST_LINE = 2; // CSS pixels
const SMALLEST_EDGE = 0.8;
const BELOW_FOR_CAPTION = 34;
const WHOLE = { x: 0, y: 0, width: 1, height: 1 };

export class Drawing {
  #frame = { width: 16, height: 9, aspect: 1 }; // aspect: width of a pixel divided by its height
  #markers = [];
  #cropped = WHOLE; // part of the frame, in shares of its sides
  #zoom = 1;
  #center = { x: 0.5, y: 0.5 }; // of the enlarged part, in shares of the cropped one
  style = null;
  isCropped = false;

  constructor() {
    new ResizeObserver(() => this.layOut()).observe(stage);
    this.layOut();
  }

  get zoom() { return this.#zoom; }

  /** Enlarge by a factor from 1, from the next frame on. */
  set zoom(factor) {
    this.#zoom = Math.min(Math.max(factor, 1), 8);
    if (this.#zoom === 1) this.#center = { x: 0.5, y: 0.5 };
    this.move(0, 0);
  }

  /** Move the enlarged part by shares of what is visible. */
  move(across, down) {
    const half = 0.5 / this.#zoom;
    const within = (value) => Math.min(Math.max(value, half), 1 - half);
    this.#center = { x: within(this.#center.x + across / this.#zoom), y: within(this.#center.y + down / this.#zoom) };
    this.mark(this.#markers);
  }

  /** The visible part of the frame, in shares of its sides. */
  get #part() {
    const { x, y, width, height } = this.#cropped;
    const size = { width: width / this.#zoom, height: height / this.#zoom };
    return { x: x + this.#center.x * width - size.width / 2, y: y + this.#center.y * height - size.height / 2, ...size };
  }

  /** Draw a frame's image (an ImageBitmap) and its markers. */
  draw(header, bitmap) {
    const [x, y, width, height] = (this.isCropped && header.content) || [0, 0, 1, 1];
    const crop = { x, y, width, height };
    const isNewShape = shape(header, crop) !== shape(this.#frame, this.#cropped);
    this.#frame = header;
    this.#cropped = crop;
    if (isNewShape) this.layOut();
    const part = this.#part;
    const source = [part.x * bitmap.width, part.y * bitmap.height, part.width * bitmap.width, part.height * bitmap.height];
    const [columns, rows] = [Math.round(crop.width * bitmap.width), Math.round(crop.height * bitmap.height)];
    const isDouble = document.body.dataset.views === "two";
    for (const canvas of isDouble ? [canvases.picture, canvases.plain] : [canvases.picture]) {
      if (canvas.width !== columns || canvas.height !== rows) {
        canvas.width = columns;
        canvas.height = rows;
      }
      canvas.getContext("2d", { alpha: false }).drawImage(bitmap, ...source, 0, 0, columns, rows);
    }
    this.mark(header.markers);
  }

  /** Replace the drawn markers. */
  mark(markers) {
    const canvas = canvases.markers;
    const pen = canvas.getContext("2d");
    if (this.#markers.length) pen.clearRect(0, 0, canvas.width, canvas.height);
    this.#markers = markers;
    if (!markers.length || !this.style) return;
    const { rgb, thickness, casing, casing_opacity, opacity } = this.style;
    const part = this.#part;
    const across = canvas.width / (part.width * this.#frame.width);
    const down = canvas.height / (part.height * this.#frame.height);
    const line = Math.max(thickness * canvas.height, SMALLEST_LINE * devicePixelRatio);
    const edge = casing && Math.max(casing * canvas.height, SMALLEST_EDGE * devicePixelRatio);
    pen.lineJoin = "round";
    for (const marker of markers) {
      const path = outline(marker.points, across, down, part.x * this.#frame.width, part.y * this.#frame.height);
      const alpha = marker.opacity * opacity;
      pen.lineWidth = line + 2 * edge;
      pen.strokeStyle = `rgb(0 12 8 / ${casing_opacity * alpha})`;
      if (edge) pen.stroke(path);
      pen.lineWidth = line;
      pen.strokeStyle = `rgb(${rgb.join(" ")} / ${alpha})`;
      pen.stroke(path);
    }
  }

  /** Fit one or two images into the stage. */
  layOut() {
    const isDouble = document.body.dataset.views === "two";
    const { paddingLeft, paddingTop, columnGap, rowGap } = getComputedStyle(stage);
    const width = stage.clientWidth - 2 * parseFloat(paddingLeft);
    const height = stage.clientHeight - 2 * parseFloat(paddingTop) - (isDouble ? 2 * BELOW_FOR_CAPTION : 0);
    const across = this.#frame.width * this.#frame.aspect * this.#cropped.width;
    const down = this.#frame.height * this.#cropped.height;
    const beside = Math.min((isDouble ? (width - parseFloat(columnGap)) / 2 : width) / across, height / down);
    const above = isDouble ? Math.min(width / across, (height - parseFloat(rowGap)) / 2 / down) : 0;
    document.body.toggleAttribute("data-stacked", above > beside);
    const scale = Math.max(Math.max(beside, above), 0.01);
    const pixels = devicePixelRatio;
    const size = [across, down].map((side) => Math.max(1, Math.round(side * scale * pixels)));
    for (const view of views) {
      view.style.width = `${size[0] / pixels}px`;
      view.style.height = `${size[1] / pixels}px`;
    }
    [canvases.markers.width, canvases.markers.height] = size;
    this.mark(this.#markers);
  }
}

const shape = ({ width, height, aspect }, crop) => (width * aspect * crop.width) / (height * crop.height);

function outline(points, across, down, left, top) {
  const path = new Path2D();
  for (let i = 0; i < points.length; i += 2) path.lineTo((points[i] - left) * across, (points[i + 1] - top) * down);
  path.closePath();
  return path;
}
