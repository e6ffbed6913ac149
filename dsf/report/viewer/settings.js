// How maps are coloured, all of them alike: the curve, one scale for several, the diagonal shown or not.

class Settings {
  /** `peers(entry)` are the maps that share a scale with one where a common scale is chosen. */
  constructor({ grid, full, attribution, intervention }, peers) {
    Object.assign(this, { grid, full, attribution, intervention, peers, curve: "root", together: false, hidesDiagonal: false, sought: "" });
  }

  /** The codes of a map, with its diagonal left out where that is chosen. */
  codesOf(picture) {
    return this.hidesDiagonal ? picture.offDiagonal : picture.codes;
  }

  /** The weight from which on a colour is full: for the square root a robust one, else the largest. */
  endOf(entry) {
    const name = this.curve === "root" ? "bright" : this.hidesDiagonal ? "largest_apart" : "scale";
    const maps = this.together && !entry.map.difference ? this.peers(entry) : [entry.map];
    return Math.max(...maps.map((map) => map[name]));
  }

  shadesOf(entry, codes) {
    return new Shades(this.curve, entry.map.scale, this.endOf(entry), codes);
  }
}
