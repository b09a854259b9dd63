/** The canvases: the untouched picture, and above it the markers, as sharp as the screen. */

const byId = (id) => document.getElementById(id);
const stage = byId("stage");
const views = [byId("plain-view"), byId("marked-view")];
const canvases = { picture: byId("picture"), plain: byId("plain"), markers: byId("markers") };
const SMALLEST_LINE = 2; // CSS pixels
const SMALLEST_EDGE = 0.8;
const BELOW_FOR_CAPTION = 30;

export class Drawing {
  #frame = { width: 16, height: 9, aspect: 1 }; // aspect: a pixel's width by its height
  #markers = [];
  style = null;

  constructor() {
    new ResizeObserver(() => this.layOut()).observe(stage);
    this.layOut();
  }

  /** Draw a frame's picture (an ImageBitmap) and its markers. */
  draw(header, bitmap) {
    const isNewShape = shape(header) !== shape(this.#frame);
    this.#frame = header;
    if (isNewShape) this.layOut();
    const isDouble = document.body.dataset.views === "two";
    for (const canvas of isDouble ? [canvases.picture, canvases.plain] : [canvases.picture]) {
      if (canvas.width !== bitmap.width || canvas.height !== bitmap.height) {
        canvas.width = bitmap.width;
        canvas.height = bitmap.height;
      }
      canvas.getContext("2d", { alpha: false }).drawImage(bitmap, 0, 0);
    }
    this.mark(header.markers);
  }

  /** Draw these markers, and no others. */
  mark(markers) {
    const canvas = canvases.markers;
    const pen = canvas.getContext("2d");
    if (this.#markers.length) pen.clearRect(0, 0, canvas.width, canvas.height);
    this.#markers = markers;
    if (!markers.length || !this.style) return;
    const { rgb, thickness, casing, casing_opacity, opacity } = this.style;
    const across = canvas.width / this.#frame.width;
    const down = canvas.height / this.#frame.height;
    const line = Math.max(thickness * canvas.height, SMALLEST_LINE * devicePixelRatio);
    const edge = casing && Math.max(casing * canvas.height, SMALLEST_EDGE * devicePixelRatio);
    pen.lineJoin = "round";
    for (const marker of markers) {
      const path = outline(marker.points, across, down);
      const alpha = marker.opacity * opacity;
      pen.lineWidth = line + 2 * edge;
      pen.strokeStyle = `rgb(0 12 8 / ${casing_opacity * alpha})`;
      if (edge) pen.stroke(path);
      pen.lineWidth = line;
      pen.strokeStyle = `rgb(${rgb.join(" ")} / ${alpha})`;
      pen.stroke(path);
    }
  }

  /** Fit one picture, or two, into the stage. */
  layOut() {
    const isDouble = document.body.dataset.views === "two";
    const { paddingLeft, paddingTop, columnGap, rowGap } = getComputedStyle(stage);
    const width = stage.clientWidth - 2 * parseFloat(paddingLeft);
    const height = stage.clientHeight - 2 * parseFloat(paddingTop) - (isDouble ? 2 * BELOW_FOR_CAPTION : 0);
    const [across, down] = [this.#frame.width * this.#frame.aspect, this.#frame.height];
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

const shape = ({ width, height, aspect }) => (width * aspect) / height;

function outline(points, across, down) {
  const path = new Path2D();
  for (let i = 0; i < points.length; i += 2) path.lineTo(points[i] * across, points[i + 1] * down);
  path.closePath();
  return path;
}
