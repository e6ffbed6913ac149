// Starts the playground in a page.

function startPlayground() {
  const board = new Board(document.getElementById("board"), JSON.parse(document.getElementById("content").textContent));
  followTheme(() => board.draw());
  board.draw();
  document.documentElement.dataset.ready = "true";
}

startPlayground();
