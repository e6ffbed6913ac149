"""Every measure has a picture; a picture shows the numbers it was given, with words and units."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from matplotlib.colors import to_rgb

import dsf
from dsf import measures
from dsf.report import plot

# One pass for several measures is no measure.
NAMES = [name for name in measures.__all__ if name.lower() != "streamed"]
# Measures that take more than a map or a system, on something small.
OTHERS = {
    "largest_difference": lambda m, _: measures.largest_difference(m, m.mT),
    "map_distance": lambda m, _: measures.map_distance(m, m.mT),
    "needle": lambda m, _: measures.needle(m, query=5, key=2),
    "duplicate_token": lambda m, _: measures.duplicate_token(m, torch.arange(9) % 3),
    "induction": lambda m, _: measures.induction(m, torch.arange(9) % 3),
    "copying": lambda m, _: measures.copying(m, torch.linspace(-1, 2, 9, dtype=m.dtype)),
    "window_mass": lambda m, _: measures.window_mass(m, width=2),
    "window_sums": lambda _, system: measures.window_sums(system, width=2),
    "neighbourhood_mass": lambda m, _: measures.neighbourhood_mass(m, grid=(3, 3)),
    "uniform_neighbourhood": lambda *_: measures.uniform_neighbourhood(grid=(3, 3)),
    "states_needed": lambda m, _: measures.states_needed(m, error=0.1),
    "forgetting": lambda _, s: measures.forgetting(s),
    "retained": lambda _, s: measures.retained(s),
    "overwritten": lambda _, s: measures.overwritten(s),
    "erased_by": lambda _, s: measures.erased_by(s),
    "interference": lambda _, s: measures.interference(s),
    "state_norm": lambda _, s: measures.state_norm(s, torch.ones(*s.batch, 9, 1, 3)),
    "key_rank": lambda m, _: measures.key_rank(m[0]),
    "hankel_singular_values": lambda m, _: measures.hankel_singular_values(m, positions=[2, 4]),
    "confusions": lambda m, _: measures.confusions(m[0], m[0]),
    "distance_ratios": lambda m, _: measures.distance_ratios(m[0], m[0]),
    "colliding_query": lambda m, _: measures.colliding_query(m[0, 0], feature_map="exp"),
    "jacobian_rank": lambda m, _: measures.jacobian_rank(lambda q: (m[0] @ q).exp(), m[0]),
    "controllability_gramians": lambda _, s: measures.controllability_gramians(s)[0, 4],
    "observability_gramians": lambda _, s: measures.observability_gramians(s)[0, 4],
}
OF_SYSTEMS = ("memory_horizon", "lyapunov_exponents", "product_norms", "transition_eigenvalues")


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


@pytest.fixture(scope="module")
def subject():
    mixer = dsf.mixers.DeltaNet.draw(torch.Generator().manual_seed(0), steps=9)
    return dsf.attention_map(mixer.system()), mixer.system()


def numbers_of(name, map, system):
    if name in OTHERS:
        return OTHERS[name](map, system)
    return getattr(measures, name)(system if name in OF_SYSTEMS else map)


def shown(axes):
    """All numbers on the axes: of lines, of bars, of images."""
    lines = [line.get_ydata() for line in axes.lines] + [line.get_xdata() for line in axes.lines]
    bars = [[bar.get_height() for bar in axes.patches if hasattr(bar, "get_height")]]
    images = [np.asarray(image.get_array()).reshape(-1) for image in axes.images]
    found = [np.asarray(part, dtype=float).reshape(-1) for part in (*lines, *bars, *images)]
    return np.concatenate(found)


def test_every_measure_has_a_picture():
    assert {measure.__name__ for measure in plot.QUANTITIES} == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_picture_shows_the_numbers_of_its_measure(name, subject):
    numbers = numbers_of(name, *subject)
    axes = plot.draw(getattr(measures, name), numbers)
    axes.figure.draw_without_rendering()
    quantity = plot.QUANTITIES[getattr(measures, name)]
    words = f"{axes.get_xlabel()} {axes.get_ylabel()} {axes.get_title()}"
    assert axes.get_ylabel()
    assert f"({quantity.unit})" in words if quantity.unit else quantity.label or axes.get_xlabel()
    numbers = getattr(numbers, "rank", numbers) if name == "key_rank" else numbers
    wanted = np.asarray(numbers)
    parts = (wanted.real, wanted.imag) if np.iscomplexobj(wanted) else (wanted,)
    for part in parts:
        assert np.isin(np.float32(part), np.float32(shown(axes))).all()


def test_a_unit_of_a_measure_stands_in_its_docstring():
    for measure, quantity in plot.QUANTITIES.items():
        for word in quantity.unit.split():
            text = measure.__doc__.casefold()
            assert word.rstrip("s") in text, f"{measure.__name__}: {word}"


def test_an_unknown_measure_is_refused():
    with pytest.raises(ValueError, match="sin"):
        plot.draw(torch.sin, torch.ones(3))


@pytest.mark.parametrize("picture", [plot.per_token, plot.spectrum])
def test_too_many_lines_are_refused(picture):
    words = {"label": "row sum"} if picture is plot.per_token else {}
    with pytest.raises(ValueError, match="13 lines"):
        picture(torch.ones(13, 4), **words)


@pytest.mark.parametrize(
    ("height", "beside"), [(np.sin, True), (lambda x: 0 * x, False)], ids=["full", "room"]
)
def test_a_legend_lies_over_no_line(height, beside):
    """Where a free place is left it takes that one, and no room from the picture."""
    places = np.linspace(0, 40, 90)
    axes = plot.curves(places, {"one": height(places)}, x_label="lag", y_label="weight")
    axes.figure.draw_without_rendering()
    box = axes.get_legend().get_window_extent()
    points = axes.transData.transform(axes.lines[0].get_xydata())
    assert not any(box.contains(*point) for point in points)
    assert (box.x0 >= axes.get_window_extent().x1) == beside


def test_labels_have_to_fit():
    with pytest.raises(ValueError, match="2 lines"):
        plot.by_lag(torch.ones(2, 4), labels=["one"])
    with pytest.raises(ValueError, match="2 maps"):
        plot.per_map(torch.ones(2), label="gain", labels=["one"])
    with pytest.raises(ValueError, match="'error'"):
        plot.curves([1, 2, 3], {"error": [1, 2]}, x_label="states", y_label="error")


def test_a_single_value_has_the_number_one():
    """No fractions of a number, such as 0.955, beside it."""
    axes = plot.spectrum(torch.tensor([0.3]))
    axes.figure.draw_without_rendering()
    low, high = axes.get_xlim()
    assert [tick for tick in axes.get_xticks() if low <= tick <= high] == [1]


def test_given_axes_are_drawn_on_and_returned():
    _, axes = plt.subplots()
    assert plot.draw(measures.row_sums, torch.ones(3), axes=axes) is axes


def test_maps_stand_beside_each_other_with_colours_of_their_own():
    maps = {str(size): size * torch.eye(3) for size in (1, 2, 3)}
    drawn = plot.heat_maps(maps, columns=2)
    assert [axes.images[0].get_clim() for axes in drawn] == [(-1, 1), (-2, 2), (-3, 3)]
    bars = [axes.images[0].colorbar.ax.get_ylabel() for axes in drawn]
    assert bars == ["", "weight", "weight"]  # said once in every row
    named = plot.heat_maps(maps, columns=3, label="share (logits)")
    assert named[-1].images[0].colorbar.ax.get_ylabel() == "share (logits)"
    with pytest.raises(ValueError, match="at least one"):
        plot.heat_maps({})
    with pytest.raises(ValueError, match="at least 1"):
        plot.heat_maps(maps, columns=0)


# Machado, Oliveira & Fernandes 2009, severity 1: what the three dichromats see of linear RGB.
SEEN = {
    "protan": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216],
               [-0.003882, -0.048116, 1.051998]],
    "deutan": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413],
               [-0.011820, 0.042940, 0.968881]],
    "tritan": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602],
               [0.004733, 0.691367, 0.303900]],
}  # fmt: skip
TO_XYZ = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])


def lab(colour, eye):
    rgb = np.array(to_rgb(colour))
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    xyz = TO_XYZ @ (eye @ linear).clip(0, 1) / TO_XYZ.sum(axis=1)
    f = np.where(xyz > 216 / 24389, np.cbrt(xyz), (24389 / 27 * xyz + 16) / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


@pytest.mark.parametrize("eye", [*SEEN, "none missing"])
def test_neighbouring_colours_stay_apart_for_every_eye(eye):
    """Lines that share a dash have different colours, and neighbours do in any case."""
    matrix = np.array(SEEN.get(eye, np.eye(3)))
    with plot.style():
        cycle = plt.rcParams["axes.prop_cycle"].by_key()
    points = [lab(colour, matrix) for colour in cycle["color"]]
    pairs = [
        (i, j)
        for j in range(len(points))
        for i in range(j)
        if j == i + 1 or cycle["linestyle"][i] == cycle["linestyle"][j]
    ]
    assert min(np.linalg.norm(points[i] - points[j]) for i, j in pairs) > 15


def test_the_sheet_leaves_other_pictures_alone():
    before = dict(plt.rcParams)
    plot.per_token(torch.ones(3), label="row sum")
    assert dict(plt.rcParams) == before
