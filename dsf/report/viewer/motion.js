// Where the large map looks, and the keys and pointers that move it.

const LARGEST_CELL = 90;

/** Sizes in whole CSS pixels: the map fits the pane and, on a wide page, the window. */
function fitted(available, margin, picture) {
  const widest = Math.max(available - margin.left, 40);
  const highest = Math.max(innerHeight * 0.58, 240);
  const ratio = Math.min(Math.max(picture.rows / picture.columns, 0.3), 1.3);
  const room = Math.floor(Math.min(widest, highest / ratio, LARGEST_CELL * picture.columns));
  const width = room < 2 * picture.columns ? room : room - room % picture.columns;
  return { ...margin, width, height: Math.round(width * ratio), density: devicePixelRatio || 1 };
}

function zoomed(window, picture, factor, [row, column]) {
  const least = Math.min(4, picture.rows, picture.columns);
  const share = factor === 0 ? 1 : Math.min(1, window.rows / factor / picture.rows);
  const rows = Math.max(share * picture.rows, least);
  const columns = Math.max(share * picture.columns, least);
  const y = (row + 0.5 - window.row) / window.rows, x = (column + 0.5 - window.column) / window.columns;
  window.row = within(row + 0.5 - y * rows, rows, picture.rows);
  window.column = within(column + 0.5 - x * columns, columns, picture.columns);
  Object.assign(window, { rows, columns });
}

function within(start, length, cells) {
  return Math.min(Math.max(start, 0), Math.max(cells - length, 0));
}

/** Move the window so that a cell lies in it; whether it had to. */
function bringIntoView(window, [row, column]) {
  const before = [window.row, window.column];
  window.row = Math.min(Math.max(window.row, row + 1 - window.rows), row);
  window.column = Math.min(Math.max(window.column, column + 1 - window.columns), column);
  return before[0] !== window.row || before[1] !== window.column;
}

function followKeys(viewer) {
  const moves = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
  const acts = {
    n: () => viewer.ask.step(1), p: () => viewer.ask.step(-1), Escape: () => viewer.ask.leave(),
    "+": () => viewer.zoom(1.6), "=": () => viewer.zoom(1.6), "-": () => viewer.zoom(1 / 1.6),
    0: () => viewer.fit(), Home: () => viewer.choose(viewer.cell[0], 0),
    End: () => viewer.choose(viewer.cell[0], viewer.picture.columns - 1),
    Enter: () => { viewer.held = !viewer.held; viewer.point(); },
    t: () => {
      viewer.details.open = !viewer.details.open;
      if (viewer.details.open) viewer.details.querySelector("summary").focus();
    },
  };
  viewer.over.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const move = moves[event.key];
    if (move) {
      const far = event.shiftKey ? 10 : 1;
      viewer.choose(viewer.cell[0] + far * move[0], viewer.cell[1] + far * move[1]);
    } else if (acts[event.key]) {
      acts[event.key]();
    } else {
      return;
    }
    event.preventDefault();
  });
  viewer.details.addEventListener("keydown", (event) => {
    if (event.key === "Escape") viewer.over.focus();
  });
}

function followPointer(viewer) {
  let drag = null;
  const under = (event) => {
    const box = viewer.over.getBoundingClientRect(), { left, width, height } = viewer.layout;
    const x = (event.clientX - box.left - left) / width, y = (event.clientY - box.top) / height;
    if (x < 0 || y < 0 || x >= 1 || y >= 1) return null;
    const { row, column, rows, columns } = viewer.window;
    return [Math.floor(row + y * rows), Math.floor(column + x * columns)];
  };
  viewer.over.addEventListener("pointerdown", (event) => {
    drag = { x: event.clientX, y: event.clientY, ...viewer.window, moved: false };
    viewer.over.setPointerCapture(event.pointerId);
  });
  viewer.over.addEventListener("pointermove", (event) => {
    if (drag && Math.hypot(event.clientX - drag.x, event.clientY - drag.y) > 4) drag.moved = true;
    if (drag?.moved) return pan(viewer, drag, event);
    const cell = under(event);
    const same = cell && cell[0] === viewer.cell[0] && cell[1] === viewer.cell[1];
    if (cell && !same && !viewer.held) viewer.choose(...cell);
    return undefined;
  });
  viewer.over.addEventListener("pointerup", (event) => {
    const cell = drag && !drag.moved && under(event);
    drag = null;
    if (!cell) return;
    viewer.held = !viewer.held;
    viewer.choose(...cell);
  });
  viewer.over.addEventListener("pointercancel", () => { drag = null; });
  viewer.over.addEventListener("wheel", (event) => {
    if (!(event.ctrlKey || event.metaKey)) return;
    event.preventDefault();
    viewer.zoom(event.deltaY < 0 ? 1.25 : 0.8, under(event) || viewer.cell);
  }, { passive: false });
}

function pan(viewer, drag, event) {
  const { width, height } = viewer.layout, { window, picture } = viewer;
  const down = (event.clientY - drag.y) * drag.rows / height;
  const right = (event.clientX - drag.x) * drag.columns / width;
  window.row = within(drag.row - down, window.rows, picture.rows);
  window.column = within(drag.column - right, window.columns, picture.columns);
  viewer.draw();
}
