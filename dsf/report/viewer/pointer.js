// Keys and pointers of a large map: choosing a cell, zooming and panning.

const LARGEST_CELL = 130, SMALLEST_MAP = 480, EVEN_CELL = 20;

/** Sizes in whole CSS pixels, so that the map fits the pane, and with its labels and the `above` pixels over it the window. */
function fitted(available, above, margin, raster) {
  const widest = Math.max(available - margin.left - margin.right, 40);
  const highest = Math.max(innerHeight - above - margin.top - margin.bottom, SMALLEST_MAP);
  const ratio = Math.min(Math.max(raster.rows / raster.columns, 0.3), 1.3);
  const room = Math.floor(Math.min(widest, highest / ratio, LARGEST_CELL * raster.columns));
  const width = room < EVEN_CELL * raster.columns ? room : room - room % raster.columns;
  return { ...margin, width, height: Math.round(width * ratio), density: devicePixelRatio || 1 };
}

function zoomed(window, raster, factor, [row, column]) {
  const least = Math.min(4, raster.rows, raster.columns);
  const share = factor === 0 ? 1 : Math.min(1, window.rows / factor / raster.rows);
  const rows = Math.max(share * raster.rows, least);
  const columns = Math.max(share * raster.columns, least);
  const y = (row + 0.5 - window.row) / window.rows, x = (column + 0.5 - window.column) / window.columns;
  window.row = within(row + 0.5 - y * rows, rows, raster.rows);
  window.column = within(column + 0.5 - x * columns, columns, raster.columns);
  Object.assign(window, { rows, columns });
}

function within(start, length, cells) {
  return Math.min(Math.max(start, 0), Math.max(cells - length, 0));
}

/** Move the window so that it contains a cell; returns whether it moved. */
function bringIntoView(window, [row, column]) {
  const before = [window.row, window.column];
  window.row = Math.min(Math.max(window.row, row + 1 - window.rows), row);
  window.column = Math.min(Math.max(window.column, column + 1 - window.columns), column);
  return before[0] !== window.row || before[1] !== window.column;
}

const ARROWS = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };

/** Keys of a map; those that concern more than this map call functions of `ask`. */
function followKeys(pane) {
  const acts = {
    n: () => pane.ask.step(1), p: () => pane.ask.step(-1), Escape: () => pane.ask.leave(),
    v: () => pane.ask.nextView(), c: () => pane.ask.compare(), d: () => pane.ask.subtract(), t: () => pane.ask.table(),
    o: () => pane.ask.fold(), "/": () => pane.ask.search(), "+": () => pane.zoom(1.6), "=": () => pane.zoom(1.6),
    "-": () => pane.zoom(1 / 1.6), 0: () => pane.zoom(0), Home: () => pane.move(0, -Infinity),
    End: () => pane.move(0, Infinity), Enter: () => pane.fix(),
  };
  pane.statePart.addEventListener("keydown", (event) => {
    const shared = ["n", "p", "v", "c", "t", "o", "/", "Escape"].includes(event.key);
    if (!shared || event.target !== pane.statePart || event.ctrlKey || event.metaKey || event.altKey) return;
    acts[event.key]();
    event.preventDefault();
    event.stopPropagation();
  });
  pane.over.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const move = ARROWS[event.key], far = event.shiftKey ? 10 : 1;
    if (move) pane.move(far * move[0], far * move[1]);
    else if (acts[event.key]) acts[event.key]();
    else return;
    event.preventDefault();
    event.stopPropagation(); // a notebook has its own keys
  });
}

function followPointer(pane) {
  let drag = null;
  const under = (event) => {
    const box = pane.over.getBoundingClientRect(), { left, top, width, height } = pane.layout;
    const x = (event.clientX - box.left - left) / width, y = (event.clientY - box.top - top) / height;
    if (x < 0 || y < 0 || x >= 1 || y >= 1) return null;
    const { row, column, rows, columns } = pane.window;
    return [Math.floor(row + y * rows), Math.floor(column + x * columns)];
  };
  pane.over.addEventListener("pointerdown", (event) => {
    drag = { x: event.clientX, y: event.clientY, ...pane.window, moved: false };
    pane.over.setPointerCapture(event.pointerId);
  });
  pane.over.addEventListener("pointermove", (event) => {
    if (drag && Math.hypot(event.clientX - drag.x, event.clientY - drag.y) > 4) drag.moved = true;
    if (drag?.moved) return pan(pane, drag, event);
    const cell = under(event);
    if (cell && !pane.fixed) pane.point(cell);
    return undefined;
  });
  pane.over.addEventListener("pointerup", (event) => {
    const cell = drag && !drag.moved && under(event);
    drag = null;
    if (cell) pane.fix(cell);
  });
  pane.over.addEventListener("pointercancel", () => { drag = null; });
  pane.over.addEventListener("wheel", (event) => {
    if (!(event.ctrlKey || event.metaKey)) return;
    event.preventDefault();
    pane.zoom(event.deltaY < 0 ? 1.25 : 0.8, under(event) || undefined);
  }, { passive: false });
}

function pan(pane, drag, event) {
  const { width, height } = pane.layout, { window, raster } = pane;
  const down = (event.clientY - drag.y) * drag.rows / height;
  const right = (event.clientX - drag.x) * drag.columns / width;
  window.row = within(drag.row - down, window.rows, raster.rows);
  window.column = within(drag.column - right, window.columns, raster.columns);
  pane.draw();
}
