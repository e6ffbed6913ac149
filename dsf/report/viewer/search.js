// The search field, which finds tokens by their text or position.

class Search {
  /** `found(tokens)` marks them, `go(token)` shows one, `leave()` returns to the map. */
  constructor({ tokens, found, go, leave }) {
    Object.assign(this, { tokens, found, go, at: -1, hits: [] });
    this.field = make("input", { type: "search", placeholder: "Find token", spellcheck: false });
    this.field.setAttribute("aria-label", "Find a token by its text or position");
    this.count = make("span", { className: "count", role: "status" });
    this.root = make("span", { className: "search" }, this.field, this.count);
    this.field.addEventListener("input", () => this.look());
    this.field.addEventListener("keydown", (event) => {
      event.stopPropagation();
      if (event.key === "Enter") this.step(event.shiftKey ? -1 : 1);
      if (event.key === "Escape") leave();
      if (["Enter", "Escape"].includes(event.key)) event.preventDefault();
    });
  }

  look() {
    this.at = -1;
    this.hits = this.field.value ? this.tokens().holding(this.field.value) : [];
    this.showCount();
    this.found(this.hits);
  }

  step(by) {
    if (!this.hits.length) return;
    this.at = (this.at + by + this.hits.length) % this.hits.length;
    if (this.at < 0) this.at = this.hits.length - 1;
    this.showCount();
    this.go(this.hits[this.at]);
  }

  showCount() {
    const many = this.hits.length;
    this.count.textContent = !this.field.value ? "" : !many ? "none"
      : this.at < 0 ? `${many} found` : `${this.at + 1} of ${many}`;
  }
}
